import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import pg from 'pg';
import { parseModelName } from 'wire';
import { eraseKeys, UnusableKeys } from '../src/load/erase.ts';
import {
  declare,
  eventually,
  getRun,
  patch,
  pushRun,
  type SourceFile,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const execute = promisify(execFile);
const MAIN = path.join(import.meta.dirname, '../bin/ingest-api.js');

describe('ingest-api erase', () => {
  let system: TestSystem;
  let operator: string;
  before(async () => {
    system = await startSystem();
    operator = await system.createToken({ name: 'operator', scopes: ['operate'] });
    system.startLoader({ pollIntervalMs: 50 });
  });
  after(() => system.stop());

  const load = async (model: string, run: string, files: readonly SourceFile[]) => {
    await pushRun(system, model, run, files);
    return (await untilFinal(system, model, run)).state;
  };
  const file = (content: string, name = 'a.jsonl') => [{ name, content }];
  const operate = (requestPath: string, json: unknown) =>
    system.request('PUT', requestPath, { json, token: operator });

  const keyFile = () => path.join(system.dataDir, 'keys.txt');

  async function eraseByCommand(model: string, keys: string): Promise<string> {
    await writeFile(keyFile(), keys);
    const args = ['erase', '--model', model, '--pk-file', keyFile(), '--reason', 'request 7'];
    const env = { ...process.env, DATABASE_URL: system.databaseUrl };
    return (await execute(process.execPath, [MAIN, ...args], { env })).stdout;
  }

  async function erase(model: string, keys: string | Buffer) {
    await writeFile(keyFile(), keys);
    return eraseKeys(
      { databaseUrl: system.databaseUrl, role: 'ingest_loader', applicationName: 'erase' },
      { model: parseModelName(model), keyFile: keyFile(), reason: 'request 7', actor: 'test' },
      () => {},
    );
  }

  /** Every table of the database, and the samples that PostgreSQL keeps of them, as text. */
  async function tablesWith(text: string): Promise<string[]> {
    const tables = await system.query<{ name: string }>(
      `SELECT oid::regclass::text AS name FROM pg_class
       WHERE relkind = 'r' AND relnamespace IN ('ingest'::regnamespace, 'run_data'::regnamespace) UNION SELECT 'pg_stats'`,
    );
    const found: string[] = [];
    for (const { name } of tables)
      if ((await system.query(`SELECT FROM ${name} t WHERE t::text LIKE $1`, [`%${text}%`])).length > 0)
        found.push(name);
    return found;
  }

  const seen = (model: string) =>
    system.query(`SELECT run, count(*)::int AS rows FROM scores.${model} GROUP BY run`);

  it('removes keys from every kept revision, names what waits, quotes nothing, and can run again', async () => {
    const lines = (first: string) =>
      `{"pk":"${first}","score":1}\n{"pk":"secret \\"2\\"","score":2}\n${scoreLines(200)}`;
    await operate('/v1/models/kept', { minRows: 3, maxRejectedLines: 0 });
    expect(await load('kept', 'r1', file(lines('secret-1')))).to.equal('published');
    expect(await load('kept', 'r2', file(`${lines('secret-1')}{"pk":"more","score":1}\n`))).to.equal(
      'published',
    );
    expect(await load('kept', 'small', file('{"pk":"secret-1","score":1}\n'))).to.equal('held');
    expect(await load('kept', 'twice', file('{"pk":"secret-1","score":1}\n'.repeat(4)))).to.equal('failed');
    expect(await load('kept', 'bad', file('{"pk":{"secret-1":1},"score":"secret-1"}\n'))).to.equal('failed');
    const waiting = file(`${lines('secret-1')}{"pk":"w","score":1}\n`, 'w.jsonl');
    const declared = await declare(system, 'kept', 'waits', waiting);
    await patch(system, declared.missing.files[0]?.uploadUrl ?? '', 0, Buffer.from('{"pk":"secret-1"'));
    const [old] = await system.query<{ id: number }>(
      `SELECT revision_id AS id FROM ingest.run_revision WHERE model = 'kept' AND run_key = 'r1'`,
    );
    await system.query(`ALTER TABLE run_data.kept DETACH PARTITION run_data."kept$${old?.id}"`);
    expect(await tablesWith('secret')).to.include.members(['pg_stats', 'ingest.rejected_line']);

    const keys = '\uFEFFsecret-1\r\n"secret \\"2\\""\r\nunknown\r\n';
    const out = await eraseByCommand('kept', keys);
    expect(out).to.contain('kept/r1 revision 1 (superseded): 2 row(s) erased');
    expect(out).to.contain('kept/r2 revision 1 (published): 2 row(s) erased');
    expect(out).to.contain('kept/small revision 1 (held): 1 row(s) erased');
    expect(out).to.contain('kept/waits revision 1 (receiving): the file w.jsonl is received, not loaded');
    expect(out).to.contain('kept/bad revision 1 (failed): the file a.jsonl');
    expect(out).to.match(/warning: a push .* brings them back/);
    expect(out).to.not.contain('secret');
    expect(await tablesWith('secret')).to.deep.equal([]);
    expect(await seen('kept')).to.deep.equal([{ run: 'r2', rows: 201 }]);
    const counts = await system.query(
      `SELECT run_key AS run, row_count::int AS loaded, erased_rows::int AS erased FROM ingest.run_revision
       WHERE model = 'kept' AND row_count IS NOT NULL ORDER BY 1`,
    );
    expect(counts).to.deep.equal([
      { run: 'r1', loaded: 202, erased: 2 },
      { run: 'r2', loaded: 203, erased: 2 },
      { run: 'small', loaded: 1, erased: 1 },
    ]);
    expect((await system.query('SELECT rows::int FROM scores_info.models'))[0]).to.deep.equal({ rows: 201 });
    const events = await system.query(
      `SELECT run_key AS run, detail FROM ingest.audit_event WHERE action = 'erase' ORDER BY event_id LIMIT 2`,
    );
    expect(events).to.deep.equal([
      { run: null, detail: { reason: 'request 7', keys: 3 } },
      { run: 'r1', detail: { reason: 'request 7', rows: 2 } },
    ]);
    expect((await getRun(system, 'kept', 'twice')).error).to.deep.include({ code: 'duplicate_keys' });

    expect(await erase('kept', keys)).to.include({ keys: 3, rows: 0, revisions: 3, blankedLines: 0 });
    // The first row of each, which readers look for, is gone.
    for (const [run, rows] of [
      ['r1', 200],
      ['r2', 201],
    ] as const) {
      expect((await operate('/v1/models/kept/current', { run, reason: 'test' })).status).to.equal(200);
      expect(await seen('kept')).to.deep.equal([{ run, rows }]);
    }
  });

  it('blanks quotations of loads that end while it works', async () => {
    await operate('/v1/models/meanwhile', { maxRejectedLines: 1 });
    await load('meanwhile', 'r1', file('{"pk":"secret-1","score":1}\n{"pk":"1","score":1}\n'));
    const retention = new pg.Client({ connectionString: system.databaseUrl });
    await retention.connect();
    await retention.query(`BEGIN; SELECT FROM ingest.sweep WHERE name = 'rows' FOR UPDATE`);
    try {
      const erasing = erase('meanwhile', 'secret-1');
      await eventually(
        () =>
          system.query(
            `SELECT FROM pg_stat_activity WHERE application_name = 'erase' AND wait_event_type = 'Lock'`,
          ),
        (waiting) => waiting.length > 0,
      );
      const bad = '{"pk":"secret-1","score":"secret-1"}\n';
      const good = '{"pk":"secret-1","score":1}\n';
      expect(await load('meanwhile', 'r2', file(`${bad}{"pk":"2","score":1}\n${good}`))).to.equal(
        'published',
      );
      expect(await load('meanwhile', 'bad', file(bad.repeat(2)))).to.equal('failed');
      expect(await load('meanwhile', 'twice', file(good.repeat(2)))).to.equal('failed');
      expect(await tablesWith('secret')).to.include('ingest.rejected_line');
      await retention.query('COMMIT');
      expect(await erasing).to.include({ rows: 2, revisions: 2, blankedLines: 5 });
    } finally {
      await retention.end();
    }
    expect(await tablesWith('secret')).to.deep.equal([]);
  });

  it('may erase all rows: readers see an empty run, never the one before', async () => {
    await load('all', 'r1', file(scoreLines(2)));
    await load('all', 'r2', file(scoreLines(3, 7)));
    expect((await erase('all', '7\n8\n9')).rows).to.equal(3);
    expect(await seen('all')).to.deep.equal([]);
    for (const [run, rows] of [
      ['r1', [{ run: 'r1', rows: 2 }]],
      ['r2', []],
    ] as const) {
      expect((await operate('/v1/models/all/current', { run, reason: 'test' })).status).to.equal(200);
      expect(await seen('all')).to.deep.equal(rows);
    }
    await load('all', 'r3', file(scoreLines(1)));
    expect(await seen('all')).to.deep.equal([{ run: 'r3', rows: 1 }]);
  });

  it('shows readers each run with all the keys or with none; a load meanwhile is erased or named', async () => {
    const rows = 30_000;
    await load('beside', 'r1', file(scoreLines(rows)));
    const erased = Array.from({ length: rows / 2 }, (_, index) => index + 1);
    let isOver = false;
    const counts = new Set<string>();
    const reading = (async () => {
      while (!isOver) for (const { run, rows } of await seen('beside')) counts.add(`${run} ${rows}`);
    })();
    await pushRun(system, 'beside', 'r2', file(scoreLines(rows, 1, 1)));
    const { waitingFiles } = await erase('beside', erased.join('\n'));
    expect((await untilFinal(system, 'beside', 'r2')).state).to.equal('published');
    isOver = true;
    await reading;
    for (const count of counts) expect(count).to.match(/ (30000|15000)$/);
    const [left] = await seen('beside');
    if (left?.rows === rows) {
      expect(waitingFiles).to.deep.equal([{ run: 'r2', revision: 1, state: 'queued', name: 'a.jsonl' }]);
      await erase('beside', erased.join('\n'));
    }
    expect(await seen('beside')).to.deep.equal([{ run: 'r2', rows: rows / 2 }]);
  });

  it('refuses a file that is not a list of keys, before it erases anything', async () => {
    await load('files', 'r1', file(scoreLines(2)));
    for (const [keys, said] of [
      ['1\n{ "pk": "2" }\n', /line 2: the line looks like JSON/],
      ['1\n"2\n', /line 2: .*not a JSON string/],
      ['', /contains no key/],
      ['1\r2\r', /carriage return/],
      [Buffer.from('1\n2\n', 'utf16le'), /NUL character/],
      [Buffer.from([0x31, 0x0a, 0xff]), /not a text in UTF-8/],
      ['1'.repeat(100_000), /longer than any key/],
    ] as const) {
      const refusal = await erase('files', keys).catch((error: unknown) => error);
      expect(refusal).to.be.instanceOf(UnusableKeys);
      expect(String(refusal))
        .to.match(said)
        .and.match(/Nothing was erased/);
    }
    expect(String(await erase('nosuch', '1').catch(String))).to.contain('There is no model "nosuch"');
    expect(await seen('files')).to.deep.equal([{ run: 'r1', rows: 2 }]);
  });
});
