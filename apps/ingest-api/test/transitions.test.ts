import { glob, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { migrateToLatest, openDatabase } from 'db-schema';
import { createTestDatabase } from 'local-postgres';
import { RUN_STATE } from 'wire';
import {
  mayDo,
  queryOf,
  startsFrom,
  TRANSITIONS,
  type TransitionName,
  transitionOne,
} from '../src/runs/transitions.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const TABLE = 'apps/ingest-api/src/runs/transitions.ts';

describe('the transitions of a run', () => {
  it('are the only code in the tree that writes its state', async () => {
    const writers: string[] = [];
    let updates = 0;
    for await (const file of glob(
      ['{apps,packages}/*/{src,page}/**/*.ts', '{bench,scripts}/**/*.{ts,mjs}', 'scripts/**/*.sh'],
      { cwd: ROOT },
    )) {
      const text = await readFile(path.join(ROOT, file), 'utf8');
      for (const statement of updatesOf(text)) {
        updates += 1;
        if (/\bstate\b\s*[=:,})]/.test(statement)) writers.push(file);
      }
    }
    expect(updates, 'statements that update a revision').to.be.above(1);
    expect(writers).to.deep.equal([TABLE]);
  });

  it('lead from every state but the last ones, and to every state', () => {
    const stored = RUN_STATE.options.filter((state) => state !== 'loading').sort();
    const moves: readonly { from: readonly string[]; to: string }[] = Object.values(TRANSITIONS);
    expect([...new Set(moves.map(({ to }) => to))].sort()).to.deep.equal(stored);
    const from = new Set(moves.flatMap((move) => move.from));
    expect(stored.filter((state) => !from.has(state))).to.deep.equal(['cancelled']);
  });

  it('move the revision that was asked for, or throw, from every state', async () => {
    const { query, revisionId, end } = await withRevision();
    try {
      const found: Record<string, string> = {};
      const expected: Record<string, string> = {};
      for (const name of Object.keys(TRANSITIONS) as TransitionName[]) {
        for (const state of RUN_STATE.options.filter((one) => one !== 'loading')) {
          await query('UPDATE ingest.run_revision SET state = $1', [state]);
          const error = await transitionOne(query, name, revisionId).then(
            () => null,
            (thrown: Error) => thrown.message,
          );
          const [row] = await query<{ state: string }>('SELECT state FROM ingest.run_revision', []);
          found[`${name} of ${state}`] = `${row?.state}${error === null ? '' : `: ${error}`}`;
          const { from, to } = TRANSITIONS[name];
          expected[`${name} of ${state}`] = startsFrom(name, state)
            ? to
            : `${state}: Revision ${revisionId} cannot become ${to} ("${name}"), because it is not ${from.join(' or ')} any more. This is a bug of the service: its row was to be locked.`;
        }
      }
      expect(found).to.deep.equal(expected);
    } finally {
      await end();
    }
  });

  it('decide what may be done with a run', () => {
    const all = { keepsRows: true, keepsFiles: true };
    const none = { keepsRows: false, keepsFiles: false };
    const actions = (kept: typeof all) =>
      Object.fromEntries(RUN_STATE.options.map((state) => [state, mayDo(state, kept)]));
    expect(actions(all)).to.deep.equal({
      receiving: ['upload', 'withdraw'],
      queued: ['retry', 'withdraw'],
      loading: [],
      published: [],
      superseded: ['publish', 'withdraw'],
      held: ['publish', 'withdraw'],
      failed: ['retry', 'withdraw'],
      cancelled: [],
    });
    expect(actions(none)).to.deep.include({
      superseded: ['withdraw'],
      held: ['withdraw'],
      failed: ['withdraw'],
    });
  });
});

/** A database with one revision, which can be put into any state. */
async function withRevision() {
  const database = await createTestDatabase({
    name: 'migrated',
    migrate: async (url) => void (await migrateToLatest(url)),
  });
  const { db } = openDatabase({
    databaseUrl: database.url,
    role: 'ingest_api',
    applicationName: 'test',
    maxConnections: 1,
    onIdleError: () => {},
  });
  const query = queryOf(db);
  await query(`INSERT INTO ingest.model (name) VALUES ('churn')`, []);
  await query(`INSERT INTO ingest.run (model, run_key) VALUES ('churn', 'r1')`, []);
  const [row] = await query<{ id: number }>(
    `INSERT INTO ingest.run_revision (model, run_key, revision, as_of, declared_by)
     VALUES ('churn', 'r1', 1, now(), 'test') RETURNING revision_id AS id`,
    [],
  );
  if (row === undefined) throw new Error('no revision');
  const end = async () => {
    await db.destroy();
    await database.drop();
  };
  return { query, revisionId: row.id, end };
}

/** The text of each UPDATE of a revision, in SQL or Kysely, up to its condition. */
function updatesOf(text: string): string[] {
  const sql = text.match(/UPDATE\s+(?:ONLY\s+)?ingest\.run_revision\b[\s\S]*?(?:\bWHERE\b|`$|$)/gi) ?? [];
  const kysely = text.match(/updateTable\('ingest\.run_revision'[\s\S]*?\.(?:where|execute)/g) ?? [];
  return [...sql, ...kysely];
}
