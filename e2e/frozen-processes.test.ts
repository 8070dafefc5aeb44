import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { expect } from 'chai';
import { declareUpload, type OneUpload } from './support/one-upload.ts';
import { type RunningProgram, waitFor } from './support/programs.ts';
import { testSeed, writeScoreFile } from './support/score-file.ts';
import { startTestSystem, type TestSystem } from './support/test-system.ts';

const MIB = 1024 * 1024;
/** A writer is gone 7 s after its last beat; a request waits 5 s for it, and is sent again. */
const SERVICE_TAKEN_OVER_MS = 15_000;
/** Enough for a load that can be caught while it copies. */
const LINES = 1_000_000;
const STALL_MS = 3_000;
/** After the stall time-out: a look every 2 s, and a machine that does much else. */
const LOAD_TAKEN_OVER_MS = STALL_MS + 7_000;

interface Attempt {
  attempt: number;
  outcome: string | null;
  error: string | null;
}

/** SIGSTOP, as a paused VM: it keeps its connections, its transactions and its open files, and wakes as if nothing was. */
describe('A process that is frozen', () => {
  let system: TestSystem;
  before(async () => {
    system = await startTestSystem();
  });
  afterEach(async () => {
    for (const loader of loaders.splice(0)) await loader.kill('SIGKILL');
  });
  after(() => system.stop());

  it('and writes an upload loses it to a live service; awake again, it changes nothing of it, and works on', async () => {
    const frozen = await system.startService();
    const living = await system.startService();
    const line = '{ "pk": "1", "score": "1" }\n';
    const content = Buffer.from(line.repeat(Math.ceil((4 * MIB) / line.length)));
    const upload = await declareUpload(frozen.url, system.token, 'frozen', content);
    expect((await upload.patch(0, MIB)).status).to.equal(204);

    const sent = sendGarbage(frozen.port, upload, MIB);
    await waitFor('the upload to be written', async () => (await writerOf(upload.id)) !== null);
    await waitFor('bytes to be on the disk', async () => (await storedOf(upload.id)).length > MIB);
    process.kill(frozen.pid, 'SIGSTOP');
    const offsets: number[] = [];
    try {
      sent.more(); // waits in the kernel until the service is awake
      const there = await declareUpload(living.url, system.token, 'frozen', content);
      const startedMs = performance.now();
      await waitFor(
        'the live service to take it over',
        async () => {
          offsets.push(await offsetOf(upload.id));
          return (await there.patch(MIB)).status === 204;
        },
        SERVICE_TAKEN_OVER_MS,
      );
      console.log(`      upload taken over after ${seconds(startedMs)} s`);
    } finally {
      process.kill(frozen.pid, 'SIGCONT');
    }
    const status = await sent.status;
    expect(status).to.be.oneOf([423, 503]);
    offsets.push(await offsetOf(upload.id));
    expect(offsets).to.deep.equal([...offsets].sort((a, b) => a - b));
    expect(offsets.at(-1)).to.equal(content.length);
    expect((await storedOf(upload.id)).equals(content)).to.equal(true);

    const again = await declareUpload(frozen.url, system.token, 'after', randomLines());
    await waitFor('it to take an upload', async () => (await again.patch(0)).status === 204);
    for (const service of [frozen, living]) await service.kill('SIGTERM');
    expect(await system.query('SELECT FROM ingest.writer')).to.have.length(0);
  });

  it('and loads a run loses it to a live loader; awake again, it records nothing, and loads the next run', async () => {
    const service = await system.startService();
    await writeScoreFile(join(system.workDir, 'big/scores.jsonl'), LINES, testSeed());
    await writeScoreFile(join(system.workDir, 'small/scores.jsonl'), 1_000, testSeed());
    await push(service.url, 'big');
    const frozen = startLoader();
    await waitFor(
      'the load to copy',
      async () => (await attempts('big', `a.phase = 'copying' AND a.rows_done > 0`)).length > 0,
      40_000,
    );
    process.kill(frozen.pid, 'SIGSTOP');
    const startedMs = performance.now();
    const living = startLoader();
    try {
      await waitFor(
        'another loader to begin',
        async () => (await attempts('big', 'a.attempt = 2')).length > 0,
        LOAD_TAKEN_OVER_MS,
      );
      console.log(
        `      load taken over after ${seconds(startedMs)} s, of which ${STALL_MS / 1000} are the time-out`,
      );
      await waitFor('the run to be published', async () => (await published('big')) > 0, 60_000);
    } finally {
      process.kill(frozen.pid, 'SIGCONT');
    }
    await waitFor(
      'the frozen one to see that',
      () => frozen.stdout().includes('another loader has taken the run over'),
      20_000,
    );
    const [first, second, ...more] = await attempts('big');
    expect(first?.outcome).to.equal('lost');
    expect(first?.error).to.contain('did not report for').and.contain('ended its connection');
    expect([second?.outcome, more]).to.deep.equal(['published', []]);
    const publications = await system.query(
      `SELECT FROM ingest.publication JOIN ingest.run_revision USING (revision_id) WHERE run_key = 'big'`,
    );
    expect(publications).to.have.length(1);

    await living.kill('SIGTERM');
    await push(service.url, 'small');
    await waitFor('it to load the next run', async () => (await published('small')) === 1_000, 20_000);
    for (const program of [frozen, service]) await program.kill('SIGTERM');
  });

  it('under a login that others may not end is reported, with what to do', async () => {
    const database = new URL(system.databaseUrl).pathname.slice(1);
    const logins = [`${database}_one`, `${database}_two`] as const;
    for (const login of logins)
      await system.query(`CREATE ROLE ${login} LOGIN PASSWORD 'x' IN ROLE ingest_loader`);
    const service = await system.startService();
    await push(service.url, 'big', 'third'); // of the same content, so nothing is sent
    const [frozen, living] = logins.map((login) => {
      const url = new URL(system.databaseUrl);
      url.username = login;
      url.password = 'x';
      return { login, start: () => startLoader({ DATABASE_URL: url.href }) };
    });
    const stopped = frozen?.start();
    await waitFor(
      'the load to copy',
      async () => (await attempts('third', 'a.rows_done > 0')).length > 0,
      40_000,
    );
    process.kill(stopped?.pid ?? 0, 'SIGSTOP');
    const other = living?.start();
    await waitFor(
      'the other one to say so',
      () => other?.stdout().includes(`GRANT pg_signal_backend TO \\"${living?.login}\\"`),
      LOAD_TAKEN_OVER_MS,
    );
    expect(other?.stdout()).to.contain(`its login is \\"${frozen?.login}\\"`);
    await system.query(`GRANT pg_signal_backend TO ${living?.login}`);
    await waitFor(
      'it to be taken over',
      async () => (await attempts('third', 'a.attempt = 2')).length > 0,
      20_000,
    );
    await waitFor('the run to be loaded', async () => (await published('third')) > 0, 60_000);
    for (const program of [stopped, other, service]) await program?.kill('SIGKILL');
    await waitFor('their sessions to end', async () => {
      const sessions = await system.query(`SELECT FROM pg_stat_activity WHERE usename = ANY ($1)`, [logins]);
      return sessions.length === 0;
    });
    for (const login of logins) await system.query(`DROP ROLE ${login}`);
  });

  const loaders: RunningProgram[] = [];
  function startLoader(env: Record<string, string> = {}): RunningProgram {
    const loader = system.startLoader({ INGEST_STALL_TIMEOUT_MS: String(STALL_MS), ...env });
    loaders.push(loader);
    return loader;
  }

  async function push(url: string, folder: string, run = folder): Promise<void> {
    const args = ['push', join(system.workDir, folder), '--model', 'churn', '--run', run, '--no-wait'];
    const { code, stderr } = await system.runUploader(url, args);
    expect(code, stderr).to.equal(0);
  }

  const attempts = (run: string, condition = 'true') =>
    system.query<Attempt>(
      `SELECT a.attempt, a.outcome, a.error FROM ingest.load_attempt a JOIN ingest.run_revision r USING (revision_id)
       WHERE r.run_key = $1 AND ${condition} ORDER BY a.attempt`,
      [run],
    );

  /** The rows that were loaded. */
  async function published(run: string): Promise<number> {
    const [row] = await system.query<{ rows: number }>(
      `SELECT row_count::int AS rows FROM ingest.run_revision WHERE run_key = $1 AND row_count IS NOT NULL`,
      [run],
    );
    return row?.rows ?? 0;
  }

  async function uploadOf(id: string) {
    const [row] = await system.query<{ writer: string | null; offset: number; file: string }>(
      `SELECT writer, offset_bytes::int AS offset, coalesce(file, upload_id) AS file FROM ingest.upload WHERE upload_id = $1`,
      [id],
    );
    if (row === undefined) throw new Error(`There is no upload ${id}.`);
    return row;
  }
  const writerOf = async (id: string) => (await uploadOf(id)).writer;
  const offsetOf = async (id: string) => (await uploadOf(id)).offset;
  const storedOf = async (id: string) => readFile(join(system.workDir, 'uploads', (await uploadOf(id)).file));

  /** A PATCH of bytes that are not the file's, half of which come later. */
  function sendGarbage(port: number, upload: OneUpload, offset: number) {
    const socket = connect(port, '127.0.0.1').on('error', () => {});
    const rest = upload.content.length - offset;
    socket.write(
      `PATCH /v1/uploads/${upload.id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${system.token}\r\nTus-Resumable: 1.0.0\r\n` +
        `Upload-Offset: ${offset}\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: ${rest}\r\n\r\n`,
    );
    socket.write(Buffer.alloc(2 * MIB, 'x'));
    const status = new Promise<number>((resolve) => {
      socket.on('data', (chunk) => resolve(Number(/^HTTP\/1.1 (\d{3})/.exec(chunk.toString())?.[1])));
      socket.on('close', () => resolve(0));
    });
    return { status, more: () => socket.write(Buffer.alloc(rest - 2 * MIB, 'x')) };
  }
});

function randomLines(): Buffer {
  return Buffer.from(`{ "pk": "${randomBytes(8).toString('hex')}", "score": "1" }\n`);
}

function seconds(sinceMs: number): string {
  return ((performance.now() - sinceMs) / 1000).toFixed(1);
}
