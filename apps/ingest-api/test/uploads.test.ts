import { existsSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import path from 'node:path';
import { expect } from 'chai';
import { collect } from './support/raw-http.ts';
import {
  declare,
  eventually,
  getRun,
  patch,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
} from './support/system.ts';

interface Upload {
  readonly url: string;
  /** Where its bytes lie. */
  readonly path: string;
  readonly body: Buffer;
}

const TUS = { 'tus-resumable': '1.0.0' };

describe('an upload', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  /** A declared run of one file of `content`, nothing sent yet. */
  async function declared(run: string, content: string): Promise<Upload> {
    const [file] = (await declare(system, 'churn', run, [{ name: 'a.jsonl', content }])).missing.files;
    if (file === undefined) throw new Error('The answer names no file.');
    return {
      url: file.uploadUrl,
      path: path.join(system.dataDir, path.basename(file.uploadUrl)),
      body: Buffer.from(content),
    };
  }

  function head(url: string): Promise<Response> {
    return system.request('HEAD', url, { headers: TUS });
  }

  /** A PATCH on a raw socket that sends the head and `sent`, and then nothing; the service is writing it. */
  async function stalledPatch(upload: Upload, sent: Buffer): Promise<Socket> {
    const { hostname, port } = new URL(system.url);
    const socket = connect(Number(port), hostname);
    socket.on('error', () => {}); // cutting it off is what the test is about
    socket.write(
      `PATCH ${upload.url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${system.token}\r\nTus-Resumable: 1.0.0\r\n` +
        `Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: ${upload.body.length}\r\n\r\n`,
    );
    socket.write(sent);
    await eventually(async () => existsSync(upload.path), Boolean);
    return socket;
  }

  it('continues from the offset that HEAD answers, and the run is queued with its last byte', async () => {
    const upload = await declared('resumed', scoreLines(50));
    expect(
      (await patch(system, upload.url, 0, upload.body.subarray(0, 100))).headers.get('upload-offset'),
    ).to.equal('100');
    expect((await head(upload.url)).headers.get('upload-offset')).to.equal('100');
    expect((await getRun(system, 'churn', 'resumed')).state).to.equal('receiving');
    expect((await patch(system, upload.url, 100, upload.body.subarray(100))).status).to.equal(204);
    expect((await getRun(system, 'churn', 'resumed')).state).to.equal('queued');
    expect(await readFile(upload.path)).to.deep.equal(upload.body);
    expect((await stat(upload.path)).mode & 0o777).to.equal(0o600);
  });

  it('keeps what had arrived when the connection broke, and answers it as the offset', async () => {
    const upload = await declared('broken', scoreLines(60));
    const socket = await stalledPatch(upload, upload.body.subarray(0, 300));
    socket.destroy();
    await eventually(
      async () => (await head(upload.url)).headers.get('upload-offset'),
      (offset) => offset === '300',
    );
    expect((await patch(system, upload.url, 300, upload.body.subarray(300))).status).to.equal(204);
  });

  it('is not cut back by a crash to less than was acknowledged, nor left with more', async () => {
    const upload = await declared('crashed', scoreLines(70));
    await patch(system, upload.url, 0, upload.body.subarray(0, 200));
    // What a crash in the middle of the next request leaves: bytes that no record counts.
    await writeFile(
      upload.path,
      Buffer.concat([upload.body.subarray(0, 200), Buffer.from('torn half of a chunk')]),
    );
    await system.restartService();
    expect((await head(upload.url)).headers.get('upload-offset')).to.equal('200');
    await patch(system, upload.url, 200, upload.body.subarray(200, 210));
    expect(await readFile(upload.path)).to.deep.equal(upload.body.subarray(0, 210));
    await patch(system, upload.url, 210, upload.body.subarray(210));
    expect(await readFile(upload.path)).to.deep.equal(upload.body);
  });

  it('refuses bytes at another offset with 409, and takes no harm from it', async () => {
    const upload = await declared('offset', scoreLines(80));
    const refused = await patch(system, upload.url, 5, upload.body);
    expect(refused.status).to.equal(409);
    expect(refused.headers.get('content-type')).to.contain('application/problem+json');
    expect(await refused.json()).to.include({ code: 'offset_conflict', retryable: true, status: 409 });
    expect((await head(upload.url)).headers.get('upload-offset')).to.equal('0');
  });

  it('refuses more bytes than were declared with 413', async () => {
    const upload = await declared('longer', scoreLines(90));
    const refused = await patch(system, upload.url, 0, Buffer.concat([upload.body, Buffer.from('x')]));
    expect(refused.status).to.equal(413);
    expect((await head(upload.url)).headers.get('upload-offset')).to.equal('0');
  });

  it('is taken over within 3 s from a request that sends nothing any more', async () => {
    const upload = await declared('stalled', scoreLines(100));
    const socket = await stalledPatch(upload, upload.body.subarray(0, 400));
    const startedMs = performance.now();
    const answer = await head(upload.url);
    expect(answer.status).to.equal(200);
    expect(answer.headers.get('upload-offset')).to.equal('400');
    expect(performance.now() - startedMs).to.be.lessThan(3_000);
    expect((await patch(system, upload.url, 400, upload.body.subarray(400))).status).to.equal(204);
    socket.destroy();
  });

  for (const [what, rows, lose] of [
    ['another one takes it over', 105, (upload: Upload) => head(upload.url)],
    [
      'its session is gone',
      106,
      () =>
        system.query(
          `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
           WHERE datname = current_database() AND application_name = 'ingest-api serve (locks)'`,
        ),
    ],
  ] as const) {
    it(`says to a request that had sent no byte when ${what} (423), rather than that it took none`, async () => {
      const upload = await declared(`lost when ${what}`, scoreLines(rows));
      const socket = await stalledPatch(upload, Buffer.alloc(0));
      const answer = collect(socket, 2_500);
      await lose(upload);
      const { text, statuses } = await answer;
      expect(statuses, text).to.deep.equal([423]);
      expect(text).to.contain('"upload_locked"').and.to.contain('"retryable":true');
      expect((await patch(system, upload.url, 0, upload.body)).status).to.equal(204);
    });
  }

  it('is locked (423, with Retry-After) while another request is sending', async () => {
    const upload = await declared('busy', scoreLines(1000));
    const socket = await stalledPatch(upload, upload.body.subarray(0, 10));
    let sent = 10;
    const sending = setInterval(() => {
      socket.write(upload.body.subarray(sent, sent + 10));
      sent += 10;
    }, 100);
    const refused = await patch(system, upload.url, 0, upload.body);
    clearInterval(sending);
    socket.destroy();
    expect(refused.status).to.equal(423);
    expect(Number(refused.headers.get('retry-after'))).to.be.greaterThan(0);
  });

  it('is not there for a token that does not cover its model, nor under any other name', async () => {
    const upload = await declared('private', scoreLines(3));
    const foreign = await system.createToken({ name: 'foreign', models: ['fraud' as never] });
    const paths = [
      upload.url,
      '/v1/uploads/00000000000000000000000000000000',
      '/v1/uploads/..%2f..%2fetc%2fpasswd',
      '/v1/uploads/x',
    ];
    for (const url of paths) {
      for (const method of ['HEAD', 'PATCH', 'DELETE']) {
        const answer = await system.request(method, url, { token: foreign, headers: TUS });
        expect(answer.status, `${method} ${url}`).to.equal(404);
      }
    }
  });

  it('can be neither read back nor reached by an overridden method', async () => {
    const upload = await declared('closed', scoreLines(4));
    expect((await system.request('GET', upload.url)).status).to.equal(405);
    const overridden = await system.request('POST', upload.url, {
      headers: { ...TUS, 'x-http-method-override': 'DELETE' },
    });
    expect(overridden.status).to.equal(405);
    expect((await head(upload.url)).status).to.equal(200);
  });

  it('is cancelled by DELETE while it is not finished, and its run with it', async () => {
    const upload = await declared('given-up', scoreLines(5));
    await patch(system, upload.url, 0, upload.body.subarray(0, 10));
    expect((await system.request('DELETE', upload.url, { headers: TUS })).status).to.equal(204);
    expect((await head(upload.url)).status).to.equal(404);
    expect((await getRun(system, 'churn', 'given-up')).state).to.equal('cancelled');
    expect(await stat(upload.path).catch((error: NodeJS.ErrnoException) => error.code)).to.equal('ENOENT');
  });

  it('stays when it is finished: DELETE answers 409', async () => {
    const upload = await declared('finished', scoreLines(6));
    await patch(system, upload.url, 0, upload.body);
    expect((await system.request('DELETE', upload.url, { headers: TUS })).status).to.equal(409);
    expect((await head(upload.url)).status).to.equal(200);
  });

  it('is finished by the sweep when the finish hook never ran', async () => {
    const upload = await declared('hookless', scoreLines(7));
    await patch(system, upload.url, 0, upload.body.subarray(0, 10));
    // What a service leaves that dies between the last byte and its finish hook.
    await writeFile(upload.path, upload.body);
    await system.query(
      'UPDATE ingest.upload SET offset_bytes = bytes, received_at = now() WHERE upload_id = $1',
      [path.basename(upload.url)],
    );
    await system.restartService();
    expect(
      (
        await eventually(
          () => getRun(system, 'churn', 'hookless'),
          ({ state }) => state === 'queued',
        )
      ).state,
    ).to.equal('queued');
  });

  it('queues its run once when the finish hook runs many times at once', async () => {
    const upload = await declared('thrice', scoreLines(8));
    await patch(system, upload.url, 0, upload.body);
    const empty = () => patch(system, upload.url, upload.body.length, Buffer.alloc(0));
    const answers = await Promise.all([empty(), empty(), empty()]);
    expect(answers.map(({ status }) => status)).to.deep.equal([204, 204, 204]);
    const [{ queued } = {}] = await system.query<{ queued: number }>(
      `SELECT count(*)::int AS queued FROM ingest.run_revision WHERE run_key = 'thrice' AND state = 'queued'`,
    );
    expect(queued).to.equal(1);
  });

  it('cannot be made by POST without model, run and filename, nor for a foreign model', async () => {
    const metadata = (fields: Record<string, string>) =>
      Object.entries(fields)
        .map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
        .join(',');
    const post = (fields: Record<string, string>, token: string) =>
      system.request('POST', '/v1/uploads', {
        token,
        headers: { ...TUS, 'upload-length': '5', 'upload-metadata': metadata(fields) },
      });
    const foreign = await system.createToken({ name: 'elsewhere', models: ['fraud' as never] });
    const whole = { model: 'churn', run: 'r', filename: 'a.jsonl' };
    expect((await post({ ...whole, filename: '../a' }, system.token)).status).to.equal(400);
    expect((await post({ model: 'churn', filename: 'a' }, system.token)).status).to.equal(400);
    expect((await post({ ...whole, model: 'Churn; --' }, system.token)).status).to.equal(400);
    expect((await post(whole, foreign)).status).to.equal(404);
    expect((await post(whole, system.token)).status).to.equal(201);
  });

  it('survives a graceful stop in the middle of a request with all that had come', async () => {
    const upload = await declared('stopped', scoreLines(500));
    const socket = await stalledPatch(upload, upload.body.subarray(0, 2_000));
    await system.restartService();
    expect((await head(upload.url)).headers.get('upload-offset')).to.equal('2000');
    socket.destroy();
  });

  it('shares the disk fairly: a run that does not fit is refused with 507 before a byte is sent', async () => {
    const full = await startSystem({ minFreeBytes: Number.MAX_SAFE_INTEGER });
    const refused = await pushRun(full, 'churn', 'r', [{ name: 'a.jsonl', content: scoreLines(3) }]).catch(
      String,
    );
    expect(refused).to.contain('507').and.to.contain('insufficient_storage');
    expect(await full.query('SELECT FROM ingest.run_revision')).to.have.length(0);
    await full.stop();
  });
});
