import { expect } from 'chai';
import pg from 'pg';
import {
  eventually,
  getRun,
  pushRun,
  type RunAnswer,
  scoreLines,
  startSystem,
  type TestSystem,
} from './support/system.ts';

interface Injection {
  readonly connection: string;
  /** The number of the statement among those of a load, from 1. */
  readonly at: number;
  /** The client whose statements were counted last: each load has a new one, and so has each look for a run. */
  client?: pg.Client;
  seen: number;
  failed: string | undefined;
}

/** The connection of the load, and those on which it reads and writes its attempt, each with what it does in any case. */
const CONNECTIONS = {
  'ingest-api load': [
    /^BEGIN/,
    /SKIP LOCKED/,
    /^CREATE TABLE/,
    /^COPY/,
    /PRIMARY KEY/,
    /^ANALYZE/,
    /attach_revision/,
    /publication/,
    /^COMMIT/,
  ],
  'ingest-api load (side)': [/^begin/i, /load_attempt/, /^commit/i],
} as const;
const REFUSED = `DO $$ BEGIN RAISE 'No space left on device' USING ERRCODE = '53100'; END $$`;
/** Far more than a load has: the test ends with the first number that no statement has. */
const MOST_STATEMENTS = 100;

type Query = (
  this: pg.Client,
  statement: string | { text: string; submit?: unknown },
  ...more: unknown[]
) => unknown;

interface Insides {
  readonly connectionParameters: { readonly application_name?: string };
  readonly connection: { readonly stream: { destroy(error: Error): void } };
}

describe('each statement of a load', function () {
  this.timeout(240_000);
  const prototype = pg.Client.prototype as unknown as { query: Query };
  const { query } = prototype;
  let system: TestSystem;
  let injection: Injection | undefined;
  let listener: pg.Client;
  /** Runs whose publication was announced. */
  const heard = new Set<string>();

  before(async () => {
    system = await startSystem();
    listener = new pg.Client({ connectionString: system.databaseUrl });
    await listener.connect();
    await listener.query('LISTEN scores_published');
    listener.on('notification', ({ payload }) => heard.add(JSON.parse(payload ?? '{}').run));
    prototype.query = function (...args) {
      return queryWithFault(this, args);
    };
    system.startLoader({ pollIntervalMs: 60_000 }); // it works only when a run is queued, or the test wakes it
    await load('first');
  });
  after(async () => {
    prototype.query = query;
    await listener.end();
    await system.stop();
  });

  function queryWithFault(client: pg.Client, args: Parameters<Query>): unknown {
    const { connectionParameters, connection } = client as unknown as Insides;
    const [statement, ...more] = args;
    const isCounted = injection?.connection === connectionParameters.application_name;
    if (injection === undefined || injection.failed !== undefined || !isCounted)
      return query.apply(client, args);
    if (injection.connection === 'ingest-api load' && injection.client !== client) injection.seen = 0;
    injection.client = client;
    injection.seen += 1;
    if (injection.seen !== injection.at) return query.apply(client, args);
    injection.failed = typeof statement === 'string' ? statement : statement.text;
    // PostgreSQL carries it out, and the connection is lost before its answer arrives; or PostgreSQL refuses it, as for a
    // full disk. What is lost with the answer to COMMIT matters most.
    const isAnswerLost = injection.at % 2 === 1 || /^commit$/i.test(injection.failed);
    const cut = () => connection.stream.destroy(new Error('The test has cut the connection.'));
    if (typeof statement === 'object' && statement.submit !== undefined) {
      // The stream of a COPY.
      if (!isAnswerLost) statement.text = 'COPY run_data.not_there FROM STDIN';
      const stream = query.call(client, statement, ...more);
      if (isAnswerLost) setImmediate(cut);
      return stream;
    }
    if (!isAnswerLost) return query.call(client, REFUSED);
    return (query.apply(client, args) as Promise<unknown>).then(() => {
      cut();
      throw new Error('Connection terminated: the test has cut it.');
    });
  }

  const content = scoreLines(5);

  async function load(run: string): Promise<RunAnswer> {
    await pushRun(system, 'churn', run, [{ name: 'a.jsonl', content }]);
    return eventually(
      async () => {
        // The next attempt is due later.
        if (injection?.failed !== undefined)
          await system.query(
            'UPDATE ingest.load_attempt SET next_try_at = NULL WHERE next_try_at > now(); NOTIFY ingest_queue',
          );
        return getRun(system, 'churn', run);
      },
      ({ state }) => state === 'published',
      20_000,
    );
  }

  /** The loader looks for the next run before it waits again: that is no part of the load. */
  const untilIdle = () =>
    eventually(
      () =>
        system.query(
          `SELECT FROM pg_stat_activity WHERE application_name = 'ingest-api load' AND datname = current_database()`,
        ),
      (rows) => rows.length === 0,
    );

  for (const [connection, inAnyCase] of Object.entries(CONNECTIONS))
    it(`on "${connection}" may be refused or stay unanswered, and the run is published exactly once`, async () => {
      const failed: string[] = [];
      for (let at = 1; at < MOST_STATEMENTS; at += 1) {
        await untilIdle();
        injection = { connection, at, seen: 0, failed: undefined };
        const run = `${connection} ${at}`;
        const { rows } = await load(run);
        const statement = injection.failed;
        injection = undefined;
        const what = `${run}: ${statement}`;
        expect(rows, what).to.equal(5);
        const [kept] = await system.query<{ publications: number; loads: number; open: number }>(
          `SELECT (SELECT count(*)::int FROM ingest.publication WHERE revision_id = r.revision_id) AS publications,
                count(*) FILTER (WHERE a.outcome = 'published')::int AS loads, count(*) FILTER (WHERE a.outcome IS NULL)::int AS open
         FROM ingest.run_revision r JOIN ingest.load_attempt a USING (revision_id) WHERE run_key = $1 GROUP BY revision_id`,
          [run],
        );
        expect(kept, what).to.deep.equal({ publications: 1, loads: 1, open: 0 });
        expect(await system.query('SELECT DISTINCT run FROM scores.churn'), what).to.deep.equal([{ run }]);
        // Also when the answer to COMMIT is lost. An announcement that is itself refused is lost.
        if (connection === 'ingest-api load')
          expect(
            await eventually(
              async () => heard.has(run),
              (isHeard) => isHeard,
            ),
            `${what}: announced`,
          ).to.equal(true);
        if (statement === undefined) break;
        failed.push(statement.trim());
      }
      if (process.env.TEST_LOG_LEVEL !== undefined) console.log(failed.join('\n'));
      for (const part of inAnyCase)
        expect(
          failed.some((statement) => part.test(statement)),
          `${part} among the statements that failed`,
        ).to.equal(true);
      expect(failed.length).to.be.below(MOST_STATEMENTS - 1);
    });
});
