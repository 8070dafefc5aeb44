import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import pg from 'pg';
import { type RunningProgram, waitFor } from './support/programs.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

const PATIENCE_MS = 60_000;
const LINES = 2_000;

/** What docs/operations.md says of a restore: database and folder of different moments, and the same pushes again. */
describe('after a restore', function () {
  this.timeout(4 * PATIENCE_MS);
  let system: TestSystem;
  let programs: RunningProgram[];
  let service: Service;

  beforeEach(async () => {
    system = await startTestSystem();
    await start();
  });
  afterEach(() => system.stop());

  async function start(): Promise<void> {
    service = await system.startService();
    programs = [service];
  }

  function startLoader(): void {
    programs.push(system.startLoader());
  }

  /** Nobody may be connected when a database is copied. */
  async function stopAll(): Promise<void> {
    for (const program of programs) await program.kill('SIGTERM');
  }

  const uploads = () => join(system.workDir, 'uploads');
  const uploadFiles = async () => (await readdir(uploads())).filter((name) => /^[0-9a-f]{32}/.test(name));

  /** The folder of one run of `model`, and its only file's text. */
  async function makeRun(model: string): Promise<{ dir: string; text: string }> {
    const dir = join(system.workDir, 'out', model);
    const lines = Array.from({ length: LINES }, (_, key) => `{"pk":"${model}-${key}","score":"${key}"}\n`);
    await mkdir(join(dir, model, '2026-11'), { recursive: true });
    await writeFile(join(dir, model, '2026-11', 'part-1.jsonl'), lines.join(''));
    return { dir, text: lines.join('') };
  }

  async function push(dir: string, ...flags: string[]) {
    const { code, stdout, stderr } = await system.runUploader(service.url, ['push', dir, '--json', ...flags]);
    expect(code, stderr).to.equal(0);
    const result = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as { runs: { bytesSent: number }[] };
    return { bytesSent: result.runs[0]?.bytesSent };
  }

  /** Declares the run of `makeRun` and sends `bytes` of its file. */
  async function sendPart(model: string, text: string, fromByte: number, toByte: number): Promise<string> {
    const headers = { authorization: `Bearer ${system.token}` };
    const bytes = Buffer.from(text);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const file = { name: 'part-1.jsonl', bytes: bytes.length, sha256, lines: LINES };
    const declared = await fetch(`${service.url}/v1/models/${model}/runs/2026-11`, {
      method: 'PUT',
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({ files: [file] }),
    });
    const run = (await declared.json()) as { missing: { files: { uploadUrl: string }[] } };
    const uploadUrl = run.missing.files[0]?.uploadUrl ?? '';
    const sent = await fetch(new URL(uploadUrl, service.url), {
      method: 'PATCH',
      headers: {
        ...headers,
        'tus-resumable': '1.0.0',
        'upload-offset': String(fromByte),
        'content-type': 'application/offset+octet-stream',
      },
      body: bytes.subarray(fromByte, toByte),
    });
    expect(sent.status, await sent.text()).to.equal(204);
    return uploadUrl.split('/').at(-1) ?? '';
  }

  async function stateOf(model: string) {
    const answer = await fetch(`${service.url}/v1/models/${model}/runs/2026-11`, {
      headers: { authorization: `Bearer ${system.token}` },
    });
    if (answer.status === 404) return undefined;
    return (await answer.json()) as { state: string; bytes: { received: number } };
  }

  async function published(model: string): Promise<void> {
    const [{ rows } = { rows: 0 }] = await system.query<{ rows: number }>(
      `SELECT count(DISTINCT pk)::int AS rows FROM scores.${model} WHERE run = '2026-11'`,
    );
    expect(rows, model).to.equal(LINES);
  }

  it('of a database older than the folder: what it does not know is pushed again, what it knows continues', async () => {
    const before = await makeRun('before');
    const half = await makeRun('half');
    const after = await makeRun('after');
    startLoader();
    await push(before.dir);
    await sendPart('half', half.text, 0, 10_000);

    await stopAll();
    const backup = await copyDatabase(system.databaseUrl);
    await start();
    startLoader();
    const halfId = await sendPart('half', half.text, 10_000, 30_000);
    await push(after.dir);
    await published('after');
    await stopAll();
    await backup.restore();

    await start();
    startLoader();
    await published('before');
    expect(await stateOf('after')).to.equal(undefined);
    expect((await stateOf('half'))?.bytes.received).to.equal(10_000);
    expect(await readdir(uploads())).to.include(halfId); // with 30,000 bytes, of which 20,000 are cut off
    expect((await push(half.dir)).bytesSent).to.equal(half.text.length - 10_000);
    expect((await push(after.dir)).bytesSent).to.equal(after.text.length);
    for (const model of ['before', 'half', 'after']) await published(model);
    await backup.drop();
  });

  it('of a folder older than the database, or of none: what is gone is sent again, and nothing else', async () => {
    const gone = await makeRun('gone');
    const short = await makeRun('short');
    const whole = await makeRun('whole');
    await push(gone.dir, '--no-wait');
    await push(whole.dir, '--no-wait');
    const shortId = await sendPart('short', short.text, 0, 30_000);
    await stopAll();
    const [lost] = await system.query<{ file: string }>(
      `SELECT coalesce(file, upload_id) AS file FROM ingest.upload WHERE model = 'gone'`,
    );
    await rm(join(uploads(), lost?.file ?? ''));
    await truncate(join(uploads(), shortId), 10_000);

    await start();
    const seen = await waitFor(
      'the service to notice',
      async () => {
        const run = await stateOf('gone');
        return run?.state === 'receiving' ? run : undefined;
      },
      PATIENCE_MS,
    );
    expect(seen.bytes.received).to.equal(0);
    await waitFor(
      'the shorter file',
      async () => (await stateOf('short'))?.bytes.received === 10_000,
      PATIENCE_MS,
    );
    expect((await stateOf('whole'))?.state).to.equal('queued');
    startLoader();
    expect((await push(gone.dir)).bytesSent).to.equal(gone.text.length);
    expect((await push(short.dir)).bytesSent).to.equal(short.text.length - 10_000);
    expect((await push(whole.dir)).bytesSent).to.equal(0);
    for (const model of ['gone', 'short', 'whole']) await published(model);
    const kept = await system.query(`SELECT model FROM ingest.audit_event WHERE action = 'lose_bytes'`);
    expect(kept).to.have.length(2);
  });

  it('or a loss while a push waits, the very same push sends what is gone and ends well', async () => {
    const run = await makeRun('waiting');
    const pushing = system.startUploader(service.url, ['push', run.dir, '--json', '--poll', '1s']);
    await waitFor(
      'the run to be queued',
      async () => (await stateOf('waiting'))?.state === 'queued',
      PATIENCE_MS,
    );
    for (const file of await uploadFiles()) await truncate(join(uploads(), file), 10_000);
    startLoader();
    const { code, stderr } = await pushing.ended;
    expect(code, stderr).to.equal(0);
    await published('waiting');
    const lost = await system.query(`SELECT actor FROM ingest.audit_event WHERE action = 'lose_bytes'`);
    expect(lost).to.deep.equal([{ actor: 'loader' }]);
  });

  it('never takes the lost file of a loaded run for content that is there', async () => {
    const first = await makeRun('reused');
    startLoader();
    await push(first.dir);
    await stopAll();
    for (const file of await uploadFiles()) await rm(join(uploads(), file));
    await start();
    startLoader();
    await waitFor(
      'the service to give the file up',
      async () => {
        const [row] = await system.query<{ gone: boolean }>(
          'SELECT bool_and(removed_at IS NOT NULL) AS gone FROM ingest.upload',
        );
        return row?.gone === true;
      },
      PATIENCE_MS,
    );
    const again = await push(first.dir, '--as-of', '2026-12-01');
    expect(again.bytesSent).to.equal(first.text.length);
    await published('reused');
  });
});

/** The database as it is now, beside it on the same server; nobody may be connected. */
async function copyDatabase(databaseUrl: string) {
  const name = new URL(databaseUrl).pathname.slice(1);
  const copy = `backup_${randomBytes(4).toString('hex')}`;
  await asSuperuser(databaseUrl, `CREATE DATABASE ${copy} TEMPLATE ${name}`);
  return {
    async restore() {
      await asSuperuser(databaseUrl, `DROP DATABASE ${name}`, `CREATE DATABASE ${name} TEMPLATE ${copy}`);
    },
    async drop() {
      await asSuperuser(databaseUrl, `DROP DATABASE ${copy}`);
    },
  };
}

async function asSuperuser(databaseUrl: string, ...statements: string[]): Promise<void> {
  const url = new URL(databaseUrl);
  url.pathname = '/postgres';
  const client = new pg.Client({ connectionString: url.href });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}
