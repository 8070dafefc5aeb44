import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect } from 'chai';
import { connect as connectAs, openDatabase } from 'db-schema';
import type pg from 'pg';
import { detachUnread, retireRevisions } from '../src/load/retention.ts';
import { removeFiles } from '../src/runs/expiry.ts';
import { folderStore } from '../src/store/folder.ts';
import {
  declare,
  getRun,
  patch,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  storedFile,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const DAY_MS = 24 * 60 * 60 * 1000;

describe('retention', () => {
  let system: TestSystem;
  let operator: string;
  const clients: pg.Client[] = [];
  before(async () => {
    system = await startSystem();
    operator = await system.createToken({ name: 'operator', scopes: ['operate', 'push'] });
    system.startLoader();
  });
  after(async () => {
    await Promise.all(clients.map((client) => client.end()));
    await system.stop();
  });

  async function connect(role?: 'ingest_loader'): Promise<pg.Client> {
    const { databaseUrl } = system;
    const client = await connectAs({
      databaseUrl,
      ...(role === undefined ? {} : { role }),
      applicationName: 'test',
    });
    clients.push(client);
    return client;
  }

  async function sweepRows(patienceMs = 10_000) {
    const client = await connect('ingest_loader');
    const { dropped, waiting } = await retireRevisions(client, patienceMs);
    return { dropped: dropped.map(({ run }) => run), waiting: waiting.map(({ run }) => run) };
  }

  async function partitionsOf(model: string): Promise<number> {
    return (
      await system.query(`SELECT FROM pg_class WHERE relkind = 'r' AND relname LIKE $1`, [`${model}$%`])
    ).length;
  }

  async function publishRuns(model: string, runs: readonly string[]): Promise<void> {
    for (const [index, run] of runs.entries()) {
      await pushRun(system, model, run, [{ name: 'a.jsonl', content: scoreLines(10 + index) }]);
      expect((await untilFinal(system, model, run)).state).to.equal('published');
    }
  }

  const keep = (model: string, keepRevisions: number) =>
    system.request('PUT', `/v1/models/${model}`, { json: { keepRevisions }, token: operator });

  it('keeps the published and the last N revisions, and drops the rows of older ones', async () => {
    await keep('rows', 2);
    await publishRuns('rows', ['r1', 'r2', 'r3', 'r4', 'r5']);
    expect(await sweepRows()).to.deep.equal({ dropped: ['r1', 'r2'], waiting: [] });
    expect(await partitionsOf('rows')).to.equal(3);
    expect(await sweepRows()).to.deep.equal({ dropped: [], waiting: [] });
    const gone = await system.request('PUT', '/v1/models/rows/current', {
      json: { run: 'r1', reason: 'back' },
      token: operator,
    });
    expect(gone.status).to.equal(409);
    expect(((await gone.json()) as { detail: string }).detail).to.contain('Retention has deleted the rows');
    expect((await getRun(system, 'rows', 'r1')).mayDo).to.deep.equal(['withdraw']);
    expect((await getRun(system, 'rows', 'r3')).mayDo).to.deep.equal(['publish', 'withdraw']);
    const back = await system.request('PUT', '/v1/models/rows/current', {
      json: { run: 'r3', reason: 'back' },
      token: operator,
    });
    expect(back.status).to.equal(200);
    expect(await sweepRows()).to.deep.equal({ dropped: [], waiting: [] });
    expect(await system.query('SELECT count(*)::int AS rows FROM scores.rows')).to.deep.equal([{ rows: 12 }]);
  });

  it('waits for readers, makes none wait, and ends in a later sweep what it has begun', async () => {
    await keep('busy', 0);
    await publishRuns('busy', ['r1', 'r2']);
    const reader = await connect();
    await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const read = async (client: pg.Client) =>
      (await client.query('SELECT count(*)::int AS rows FROM scores.busy')).rows[0].rows;
    expect(await read(reader)).to.equal(11);
    expect(await sweepRows(200)).to.deep.equal({ dropped: [], waiting: ['r1'] });
    expect(await read(reader)).to.equal(11);
    expect(await read(await connect())).to.equal(11);
    expect(await sweepRows(200)).to.deep.equal({ dropped: [], waiting: ['r1'] });
    await publishRuns('busy', ['r3']); // a load is not held up
    await reader.query('COMMIT');
    const swept = [await sweepRows(), await sweepRows()].flatMap(({ dropped }) => dropped);
    expect(swept).to.deep.equal(['r1', 'r2']);
    expect(await read(reader)).to.equal(10);
    expect(await partitionsOf('busy')).to.equal(1);
  });

  async function detach(timeoutMs = 10_000, keepPreviousMs = 0, waitMs = 0): Promise<void> {
    const [turn, client] = [await connect('ingest_loader'), await connect('ingest_loader')];
    await turn.query('BEGIN');
    expect(await detachUnread(turn, client, { timeoutMs, keepPreviousMs, waitMs })).to.deep.equal([]);
    await turn.query('COMMIT');
  }

  async function attachedRuns(model: string): Promise<string[]> {
    const rows = await system.query<{ run: string }>(
      `SELECT r.run_key AS run FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
       JOIN ingest.run_revision r ON c.relname = r.model || '$' || r.revision_id
       WHERE r.model = $1 AND NOT i.inhdetachpending ORDER BY 1`,
      [model],
    );
    return rows.map(({ run }) => run);
  }

  it('waits on request: a table is hidden from new queries, and detached and dropped hours later', async () => {
    await keep('patient', 0);
    await publishRuns('patient', ['r1', 'r2', 'r3']);
    const hour = 60 * 60_000;
    const relations = async () => {
      const rows = await system.query<{ run: string; how: string }>(
        `SELECT r.run_key AS run, CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'hidden' ELSE 'attached' END AS how
         FROM pg_class c JOIN ingest.run_revision r ON c.relname = r.model || '$' || r.revision_id AND c.relkind = 'r'
         LEFT JOIN pg_inherits i ON i.inhrelid = c.oid WHERE r.model = 'patient' ORDER BY 1`,
      );
      return rows.map(({ run, how }) => `${run} ${how}`).join(', ');
    };
    const sweep = async () => {
      const { dropped } = await retireRevisions(await connect('ingest_loader'), 10_000, hour);
      await detach(10_000, 0, hour);
      return dropped.map(({ run }) => run);
    };
    const later = () =>
      system.query(
        `UPDATE ingest.run_revision SET hidden_at = hidden_at - interval '2 hours' WHERE model = 'patient'`,
      );
    for (let time = 0; time < 2; time += 1) {
      expect(await sweep()).to.deep.equal([]);
      expect(await relations()).to.equal('r1 hidden, r2 attached, r3 attached');
    }
    await later();
    expect(await sweep()).to.deep.equal(['r1']);
    expect(await relations()).to.equal('r2 hidden, r3 attached');
    await later();
    expect(await sweep()).to.deep.equal(['r2']);
    expect(await relations()).to.equal('r3 attached');

    await keep('patient', 10);
    await publishRuns('patient', ['r4']);
    await sweep();
    expect(await relations()).to.equal('r3 hidden, r4 attached');
    const elsewhere = await connect();
    await elsewhere.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ingest.model');
    const [session] = (await elsewhere.query('SELECT pg_backend_pid() AS pid')).rows;
    const refused = await publish('patient', 'r3');
    expect(refused.status).to.equal(503);
    expect(((await refused.json()) as { detail: string }).detail)
      .to.contain('Retention is detaching the rows of this run')
      .and.to.contain(`SELECT pg_terminate_backend(${session?.pid});`)
      .and.match(/: \d+ \([^)]*\)\. Nothing was published/);
    await elsewhere.query('COMMIT');
    expect((await publish('patient', 'r3')).status).to.equal(200);
    expect(await system.query('SELECT DISTINCT run FROM scores.patient')).to.deep.equal([{ run: 'r3' }]);
  });

  const publish = (model: string, run: string) =>
    system.request('PUT', `/v1/models/${model}/current`, { json: { run, reason: 'test' }, token: operator });

  it('detaches what readers do not see any more, and a rollback attaches its run again', async () => {
    await keep('slim', 10);
    await publishRuns('slim', ['r1', 'r2', 'r3', 'r4']);
    await detach(10_000, 60_000);
    expect(await attachedRuns('slim'), 'the run before too, at first').to.deep.equal(['r3', 'r4']);
    await detach();
    expect(await attachedRuns('slim')).to.deep.equal(['r4']);
    expect(await partitionsOf('slim')).to.equal(4);
    for (const [run, rows] of [
      ['r1', 10],
      ['r3', 12],
    ] as const) {
      expect((await publish('slim', run)).status).to.equal(200);
      const seen = await system.query('SELECT count(*)::int AS rows, min(run) AS run FROM scores.slim');
      expect(seen).to.deep.equal([{ rows, run }]);
      await detach();
      expect(await attachedRuns('slim')).to.deep.equal([run]);
    }
  });

  it('leaves attached what a transaction uses for long, so that a rollback to it does not wait', async () => {
    await keep('long', 10);
    await publishRuns('long', ['r1', 'r2', 'r3']);
    const reader = await connect();
    await reader.query('BEGIN');
    await reader.query('SELECT count(*) FROM scores.long');
    await detach();
    expect(await attachedRuns('long')).to.deep.equal(['r1', 'r2', 'r3']);
    expect((await publish('long', 'r1')).status).to.equal(200);
    await reader.query('COMMIT');
    await detach();
    expect(await attachedRuns('long')).to.deep.equal(['r1']);
  });

  it('attaches again what a killed sweep has half detached', async () => {
    await keep('half', 10);
    await publishRuns('half', ['r1', 'r2']);
    const reader = await connect();
    await reader.query('BEGIN');
    const sweeper = await connect('ingest_loader');
    const [old] = await system.query<{ name: string }>(
      `SELECT min(c.oid)::regclass::text AS name FROM pg_class c WHERE relkind = 'r' AND relname LIKE 'half$%'`,
    );
    await reader.query('SELECT count(*) FROM scores.half');
    await sweeper.query(`SET lock_timeout = '50ms'`);
    const refused = await sweeper
      .query(`ALTER TABLE run_data.half DETACH PARTITION ${old?.name} CONCURRENTLY`)
      .then(
        () => 'done',
        (error: pg.DatabaseError) => error.code,
      );
    expect(refused).to.equal('55P03');
    await reader.query('COMMIT');
    expect((await publish('half', 'r1')).status).to.equal(200);
    expect(await system.query('SELECT DISTINCT run FROM scores.half')).to.deep.equal([{ run: 'r1' }]);
  });

  it('never detaches what is published meanwhile: each read sees one whole run, and after a rollback that one', async () => {
    await keep('race', 10);
    const runs = ['r1', 'r2', 'r3', 'r4'];
    await publishRuns('race', runs);
    const rowsOf = new Map(runs.map((run, index) => [run, 10 + index]));
    let isOver = false;
    const wrong: unknown[] = [];
    let slowestMs = 0;
    const reading = [0, 1].map(async () => {
      const client = await connect();
      while (!isOver) {
        const startedMs = performance.now();
        const { rows } = await client.query(
          'SELECT count(*)::int AS rows, min(run) AS run, count(DISTINCT run)::int AS runs FROM scores.race',
        );
        slowestMs = Math.max(slowestMs, performance.now() - startedMs);
        if (rows[0].runs !== 1 || rows[0].rows !== rowsOf.get(rows[0].run)) wrong.push(rows[0]);
      }
    });
    const sweeping = (async () => {
      while (!isOver) await detach(1_000);
    })();
    try {
      for (let turn = 0; turn < 40; turn += 1) {
        const run = runs[(turn * 3) % runs.length] ?? '';
        expect((await publish('race', run)).status).to.equal(200);
        expect(await system.query('SELECT DISTINCT run FROM scores.race'), `${turn}`).to.deep.equal([
          { run },
        ]);
      }
    } finally {
      isOver = true;
      await Promise.all([...reading, sweeping]);
    }
    expect(wrong).to.deep.equal([]);
    expect(slowestMs, 'no reader waits').to.be.below(5_000);
  });

  it('keeps in the history what was published and is kept, attached or not; its readers end before a rollback to it', async () => {
    await system.request('PUT', '/v1/models/past', {
      json: { keepRevisions: 2, minRows: 5 },
      token: operator,
    });
    await publishRuns('past', ['r1', 'r2', 'r3', 'r4']);
    await pushRun(system, 'past', '2000-01', [{ name: 'a.jsonl', content: scoreLines(30) }]);
    expect((await untilFinal(system, 'past', '2000-01')).state).to.equal('superseded');
    await pushRun(system, 'past', 'small', [{ name: 'a.jsonl', content: scoreLines(1) }]);
    expect((await untilFinal(system, 'past', 'small')).state).to.equal('held');
    const analyst = await connect();
    await analyst.query('SET ROLE score_history_reader');
    const history = async () => {
      const { rows } = await analyst.query(
        'SELECT run, count(*)::int AS rows FROM scores_history.past GROUP BY run ORDER BY run',
      );
      return rows.map(({ run, rows: count }) => `${run} ${count}`);
    };
    expect(await history()).to.deep.equal(['r1 10', 'r2 11', 'r3 12', 'r4 13']);
    await detach();
    expect(await attachedRuns('past')).to.deep.equal(['r4']);
    expect(await history()).to.deep.equal(['r1 10', 'r2 11', 'r3 12', 'r4 13']);
    await analyst.query('BEGIN');
    expect(await history()).to.have.length(4);
    expect(await sweepRows(200), 'a reader of the history').to.deep.equal({ dropped: [], waiting: ['r1'] });
    const busy = await publish('past', 'r2');
    expect(busy.status).to.equal(503);
    const [me] = (await analyst.query('SELECT pg_backend_pid() AS pid')).rows;
    expect(((await busy.json()) as { detail: string }).detail).to.contain(
      `SELECT pg_terminate_backend(${me?.pid});`,
    );
    await analyst.query('COMMIT');
    expect((await publish('past', 'r2')).status).to.equal(200);
    expect((await sweepRows()).dropped).to.deep.equal(['r1']);
    expect(await history()).to.deep.equal(['r2 11', 'r3 12', 'r4 13']);
    await publishRuns('past', ['r5']);
    expect(await history(), 'at once').to.deep.equal(['r2 11', 'r3 12', 'r4 13', 'r5 10']);
    const plan = await analyst.query(
      `EXPLAIN SELECT score FROM scores_history.past WHERE run = 'r3' AND pk = '7'`,
    );
    const text = plan.rows.map((row) => row['QUERY PLAN']).join('\n');
    expect(text.match(/ on "?past/g), text).to.have.length(2);
    const documented = await readFile(
      path.join(import.meta.dirname, '../../../docs/reading-scores.md'),
      'utf8',
    );
    const diff = /```sql\n(-- what changed.*?)```/s.exec(documented)?.[1] ?? '';
    const { rows: changed } = await analyst.query(
      diff.replaceAll('churn', 'past').replaceAll('2026-10', 'r3').replaceAll('2026-11', 'r4'),
    );
    expect(changed).to.deep.equal([{ pk: '13', before: null, after: 13 }]);
  });

  it('has statistics of partition and table at COMMIT, after a load and after a publication by hand', async () => {
    await system.request('PUT', '/v1/models/stats', { json: { minRows: 1_000 }, token: operator });
    await pushRun(system, 'stats', 'r1', [{ name: 'a.jsonl', content: scoreLines(500) }]);
    expect((await untilFinal(system, 'stats', 'r1')).state).to.equal('held');
    const statistics = () =>
      system.query(
        `SELECT tablename <> 'stats' AS leaf, n_distinct FROM pg_stats
         WHERE schemaname = 'run_data' AND tablename LIKE 'stats%' AND attname = 'pk' ORDER BY 1`,
      );
    expect(await statistics(), 'held').to.deep.equal([{ leaf: true, n_distinct: -1 }]);
    const forced = await system.request('PUT', '/v1/models/stats/current', {
      json: { run: 'r1', force: true, reason: 'test' },
      token: operator,
    });
    expect(forced.status).to.equal(200);
    expect(await statistics(), 'by hand').to.deep.equal([
      { leaf: false, n_distinct: -1 },
      { leaf: true, n_distinct: -1 },
    ]);
    await pushRun(system, 'stats', 'r2', [{ name: 'a.jsonl', content: scoreLines(1_500) }]);
    expect((await untilFinal(system, 'stats', 'r2')).state).to.equal('published');
    expect(await statistics(), 'by a load').to.have.length(3);
    const [join] = await system.query<{ 'QUERY PLAN': [{ Plan: { 'Plan Rows': number } }] }>(
      'EXPLAIN (FORMAT JSON) SELECT FROM generate_series(1, 1500) id JOIN scores.stats s ON s.pk = id::text',
    );
    // Without statistics of the table each key counts as one of 200, and the join as 10,000 rows and more.
    expect(join?.['QUERY PLAN'][0].Plan['Plan Rows']).to.be.within(100, 4_000);
  });

  it('ends what was killed in the middle', async () => {
    await keep('killed', 0);
    await publishRuns('killed', ['r1', 'r2']);
    const reader = await connect();
    await reader.query('BEGIN');
    await reader.query('SELECT count(*) FROM scores.killed');
    const sweeper = await connect('ingest_loader');
    const sweeping = retireRevisions(sweeper, 60_000).catch(() => 'killed');
    for (let tries = 0; tries < 500; tries += 1) {
      const [begun] = await system.query(`SELECT FROM pg_inherits WHERE inhdetachpending`);
      if (begun !== undefined) break;
    }
    await system.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE%CONCURRENTLY' AND pid <> pg_backend_pid()`,
    );
    expect(await sweeping).to.equal('killed');
    await reader.query('COMMIT');
    expect(await sweepRows()).to.deep.equal({ dropped: ['r1'], waiting: [] });
  });

  it('drops what it can when PostgreSQL refuses one, and that one once nothing hangs on it any more', async () => {
    await keep('viewed', 0);
    await publishRuns('viewed', ['r1', 'r2', 'r3']);
    const [oldest] = await system.query<{ name: string }>(
      `SELECT min(c.oid)::regclass::text AS name FROM pg_class c WHERE relkind = 'r' AND relname LIKE 'viewed$%'`,
    );
    await system.query(`CREATE VIEW public.somebodys AS SELECT pk FROM ${oldest?.name}`);
    const { dropped, refused } = await retireRevisions(await connect('ingest_loader'), 10_000);
    expect(dropped.map(({ run }) => run)).to.deep.equal(['r2']);
    expect(refused.map(({ run, error }) => [run, (error as pg.DatabaseError).code])).to.deep.equal([
      ['r1', '2BP01'],
    ]);
    await system.query('DROP VIEW public.somebodys');
    expect(await sweepRows()).to.deep.equal({ dropped: ['r1'], waiting: [] });
  });

  it('drops what was withdrawn, and keeps what is held', async () => {
    await system.request('PUT', '/v1/models/gates', {
      json: { minRows: 5, keepRevisions: 0 },
      token: operator,
    });
    for (const run of ['h1', 'h2']) {
      await pushRun(system, 'gates', run, [{ name: 'a.jsonl', content: scoreLines(run === 'h1' ? 1 : 2) }]);
      expect((await untilFinal(system, 'gates', run)).state).to.equal('held');
    }
    await system.request('DELETE', runPath('gates', 'h1'), { token: operator });
    expect(await sweepRows()).to.deep.equal({ dropped: ['h1'], waiting: [] });
    expect(await partitionsOf('gates')).to.equal(1);
  });

  it('counts the oldest of more than 12 held revisions as decided, and records it', async () => {
    await system.request('PUT', '/v1/models/many', {
      json: { minRows: 5, keepRevisions: 0 },
      token: operator,
    });
    for (let i = 1; i <= 14; i += 1) {
      await pushRun(system, 'many', `h${i}`, [{ name: 'a.jsonl', content: scoreLines(1) }]);
      expect((await untilFinal(system, 'many', `h${i}`)).state).to.equal('held');
    }
    expect((await sweepRows()).dropped).to.have.members(['h1', 'h2']);
    const states = await system.query<{ run: string }>(
      `SELECT run_key AS run FROM ingest.run_revision WHERE model = 'many' AND state <> 'held' ORDER BY 1`,
    );
    expect(states.map(({ run }) => run)).to.deep.equal(['h1', 'h2']);
    const records = await system.query<{ run: string }>(
      `SELECT run_key AS run FROM ingest.audit_event
       WHERE model = 'many' AND action = 'retire' AND detail->>'was' = 'held' ORDER BY 1`,
    );
    expect(records.map(({ run }) => run)).to.deep.equal(['h1', 'h2']);
    expect(await partitionsOf('many')).to.equal(12);
  });

  async function sweepFiles() {
    const { db } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'test',
      maxConnections: 1,
      onIdleError: () => {},
    });
    try {
      return await removeFiles(db, folderStore(system.dataDir), {
        keepFilesMs: DAY_MS,
        expireUploadsMs: DAY_MS,
      });
    } finally {
      await db.destroy();
    }
  }

  /** As if everything about the run had happened two days earlier. */
  async function age(model: string): Promise<void> {
    await system.query(
      `UPDATE ingest.run_revision SET declared_at = declared_at - interval '2 days', loaded_at = loaded_at - interval '2 days' WHERE model = $1`,
      [model],
    );
    await system.query(
      `UPDATE ingest.upload SET last_progress_at = last_progress_at - interval '2 days' WHERE model = $1`,
      [model],
    );
  }

  function isOnDisk(uploadUrl: string | undefined): boolean {
    return existsSync(storedFile(system, uploadUrl));
  }

  it('removes the files of a loaded run after the grace period, and not while another run needs them', async () => {
    const shared = { name: 'shared.jsonl', content: scoreLines(50) };
    const own = { name: 'own.jsonl', content: scoreLines(1, 900) };
    const first = await pushRun(system, 'files', 'r1', [shared, own]);
    await untilFinal(system, 'files', 'r1');
    const urlOf = (name: string) => first.missing.files.find((file) => file.name === name)?.uploadUrl;
    expect((await sweepFiles()).removedFiles).to.equal(0);
    await age('files');
    const waiting = await declare(system, 'files', 'r2', [shared, { name: 'new.jsonl', content: 'x' }]);
    expect((await sweepFiles()).removedFiles).to.equal(1);
    expect(isOnDisk(urlOf('own.jsonl'))).to.equal(false);
    expect(isOnDisk(urlOf('shared.jsonl'))).to.equal(true);
    expect((await getRun(system, 'files', 'r1')).state).to.equal('published');
    expect(waiting.missing.files.map(({ name }) => name)).to.deep.equal(['new.jsonl']);
  });

  it('cancels a run that nobody sends any more, by its last activity', async () => {
    const file = { name: 'a.jsonl', content: scoreLines(20) };
    const declared = await declare(system, 'slow', 'r1', [file]);
    const url = declared.missing.files[0]?.uploadUrl ?? '';
    const send = (from: number, to: number) =>
      patch(system, url, from, Buffer.from(file.content).subarray(from, to));
    expect((await send(0, 10)).status).to.equal(204);
    await age('slow');
    expect((await send(10, 20)).status).to.equal(204); // two days old, and a byte came just now
    expect((await sweepFiles()).expired).to.deep.equal([]);
    await age('slow');
    const { expired } = await sweepFiles();
    expect(expired.map(({ model, run, revision }) => [model, run, revision])).to.deep.equal([
      ['slow', 'r1', 1],
    ]);
    expect((await getRun(system, 'slow', 'r1')).state).to.equal('cancelled');
    expect(isOnDisk(url)).to.equal(false);
    expect((await send(20, 30)).status).to.equal(404);
    await pushRun(system, 'slow', 'r1', [file]);
    expect((await untilFinal(system, 'slow', 'r1')).state).to.equal('published');
  });

  it('removes the file of an upload that was cancelled before', async () => {
    const declared = await pushRun(system, 'torn', 'r1', [{ name: 'a.jsonl', content: scoreLines(5) }]);
    await untilFinal(system, 'torn', 'r1');
    const url = declared.missing.files[0]?.uploadUrl;
    await system.query(`UPDATE ingest.upload SET removed_at = now() WHERE model = 'torn'`);
    expect(isOnDisk(url)).to.equal(true);
    expect(await sweepFiles()).to.include({ removedFiles: 1, removedBytes: scoreLines(5).length });
    expect(isOnDisk(url)).to.equal(false);
  });
});
