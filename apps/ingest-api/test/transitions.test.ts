import { glob, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { RUN_STATE } from 'wire';
import { mayDo, TRANSITIONS } from '../src/runs/transitions.ts';

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

/** The text of each UPDATE of a revision, in SQL or Kysely, up to its condition. */
function updatesOf(text: string): string[] {
  const sql = text.match(/UPDATE\s+(?:ONLY\s+)?ingest\.run_revision\b[\s\S]*?(?:\bWHERE\b|`$|$)/gi) ?? [];
  const kysely = text.match(/updateTable\('ingest\.run_revision'[\s\S]*?\.(?:where|execute)/g) ?? [];
  return [...sql, ...kysely];
}
