import { basename } from 'node:path';
import { expect } from 'chai';
import { createFaultLog } from '../src/http/fault-log.ts';
import { createCompression } from '../src/send/compression.ts';
import { sendFile } from '../src/send/file.ts';
import { identify } from '../src/source/hash.ts';
import { type IngestServer, problem, startIngestServer } from './support/ingest-server.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';

const MIB = 2 ** 20;
const STEP_BYTES = 1024;

/** More than two clients cause by chance, fewer than a large file causes when another host sends it. */
const CONFLICTS = 100;

describe('a conflict about the offset of an upload (409)', () => {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
  });
  afterEach(async () => {
    await server.stop();
    scratch.remove();
  });

  /**
   * Another client sends the file at the same time.
   *
   * @param moves the bytes that it sends before each of our requests; the last of them are those of the file.
   */
  async function sendBeside(moves: (patches: number) => number): Promise<number> {
    const path = scratch.write('a.jsonl', scoreLines(MIB));
    const identity = await identify(path);
    let patches = 0;
    let offset = 0;
    server.intercept = (request, response) => {
      const headers = { 'Tus-Resumable': '1.0.0', 'Upload-Length': identity.bytes };
      if (request.method === 'PATCH') {
        patches += 1;
        offset = moves(patches);
        request.resume();
        problem(response, 409, 'Conflict', 'The offset is another one.');
      } else response.writeHead(200, { ...headers, 'Upload-Offset': offset }).end();
      return true;
    };
    const compression = createCompression('off', MIB, () => {});
    await sendFile(
      {
        file: { name: basename(path), path, sha256: '', lines: 0, identity },
        uploadUrl: `${server.url}/v1/uploads/1`,
        headers: () => ({}),
        chunkSizeBytes: MIB,
        compression,
        stallTimeoutMs: 60_000,
        signal: new AbortController().signal,
        onBytes: () => {},
        inSlot: (oneTry) => oneTry(),
        pauseMs: () => 0,
        beforeLastBytes: async () => {},
        onAcknowledged: () => {},
      },
      {
        what: 'm/1',
        limit: {
          signal: new AbortController().signal,
          remainingMs: () => Number.POSITIVE_INFINITY,
          over: '',
        },
        faults: createFaultLog(() => {}),
        random: () => 0,
      },
    ).catch((error: Error) => {
      throw new Error(`${error.message} (after ${patches} conflicts)`);
    });
    return patches;
  }
  const endOf = (sent: Promise<number>) =>
    sent.then(
      (patches) => `sent after ${patches} conflicts`,
      (error: Error) => error.message,
    );

  it('is the progress of another client while the offset moves, however often', async () => {
    const whole = (await identify(scratch.write('a.jsonl', scoreLines(MIB)))).bytes;
    const moves = (patches: number) => (patches === CONFLICTS ? whole : patches * STEP_BYTES);
    expect(await endOf(sendBeside(moves))).to.equal(`sent after ${CONFLICTS} conflicts`);
  });

  it('is also progress when the other client pauses for some of them', async () => {
    const whole = (await identify(scratch.write('a.jsonl', scoreLines(MIB)))).bytes;
    const moves = (patches: number) => (patches === CONFLICTS ? whole : Math.floor(patches / 5) * STEP_BYTES);
    expect(await endOf(sendBeside(moves))).to.equal(`sent after ${CONFLICTS} conflicts`);
  });

  it('is an error of the programs when the offset stays where it is', async () => {
    expect(await endOf(sendBeside(() => 0))).to.match(/which did not move\. \(after 11 conflicts\)/);
    expect(await endOf(sendBeside((patches) => Math.min(patches, 20) * STEP_BYTES))).to.match(
      /which did not move\. \(after 3\d conflicts\)/,
    );
  });
});
