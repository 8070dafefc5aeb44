import { createReadStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { expect } from 'chai';
import * as tus from 'tus-js-client';
import {
  eventually,
  getRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const CONTENT = scoreLines(2000);
const SIZE_BYTES = Buffer.byteLength(CONTENT);
const CHUNK_BYTES = 10_000;

/** tus-js-client as anybody has it from npm: no manifest, nothing of ours. */
describe('a plain tus client', () => {
  let system: TestSystem;
  let source: string;

  before(async () => {
    system = await startSystem();
    source = path.join(system.dataDir, 'source.jsonl');
    await writeFile(source, CONTENT);
  });
  after(() => system.stop());

  function upload(options: tus.UploadOptions): tus.Upload {
    return new tus.Upload(createReadStream(source), {
      headers: { authorization: `Bearer ${system.token}` },
      uploadSize: SIZE_BYTES,
      chunkSize: CHUNK_BYTES,
      retryDelays: null,
      ...options,
    });
  }

  const create = (run: string) => ({
    endpoint: `${system.url}/v1/uploads`,
    metadata: { model: 'plain', run, filename: 'scores.jsonl' },
  });

  function send(options: tus.UploadOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      upload({ ...options, onSuccess: () => resolve(), onError: reject }).start();
    });
  }

  /** Sends some chunks and stops. @returns where the upload is. */
  function sendSome(options: tus.UploadOptions): Promise<string> {
    return new Promise((resolve, reject) => {
      const some = upload({
        ...options,
        onError: reject,
        onChunkComplete: (_size, acceptedBytes) => {
          if (acceptedBytes < 2 * CHUNK_BYTES) return;
          some.abort().then(() => resolve(some.url ?? ''), reject);
        },
      });
      some.start();
    });
  }

  it('makes a run of one file by POST and PATCH', async () => {
    const loader = system.startLoader();
    await send(create('run 1'));
    const run = await untilFinal(system, 'plain', 'run 1');
    expect(run).to.include({ state: 'published', rows: 2000, revision: 1 });
    await loader.stop();
  });

  it('sends its first bytes with the POST (creation-with-upload)', async () => {
    await send({ ...create('with data'), uploadDataDuringCreation: true });
    const run = await getRun(system, 'plain', 'with data');
    expect(run).to.include({ state: 'queued', revision: 1 });
    expect(run.bytes.received).to.equal(SIZE_BYTES);
  });

  it('continues from the offset that HEAD answers', async () => {
    const uploadUrl = await sendSome(create('resumed'));
    const before = (await getRun(system, 'plain', 'resumed')).bytes.received;
    expect(before).to.be.within(2 * CHUNK_BYTES, SIZE_BYTES - 1);
    await send({ uploadUrl });
    expect((await getRun(system, 'plain', 'resumed')).state).to.equal('queued');
  });

  it('gives an upload up by DELETE', async () => {
    const uploadUrl = await sendSome(create('cancelled one'));
    await tus.Upload.terminate(uploadUrl, {
      headers: { authorization: `Bearer ${system.token}` },
      retryDelays: null,
    } as tus.UploadOptions);
    const run = await eventually(
      () => getRun(system, 'plain', 'cancelled one'),
      ({ state }) => state !== 'receiving',
    );
    expect(run.state).to.equal('cancelled');
  });
});
