/**
 * Breaks promises in the code of the service, one at a time, in a temporary checkout of HEAD, and names the test that fails:
 *
 *   npm run mutants [-- WORD]          all, or those whose promise has the word
 *
 * Exit code 1: no test noticed one of them. It takes minutes, and is no part of `npm test`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

interface Mutant {
  readonly promise: string;
  /** Below apps/ingest-api/src. */
  readonly file: string;
  /** Occurs exactly once in the file. */
  readonly code: string;
  readonly broken: string;
  /** Below apps/ingest-api/test, without the ending. */
  readonly tests: readonly string[];
}

const MUTANTS: readonly Mutant[] = [
  {
    promise: 'an acknowledged byte is synced',
    file: 'store/write.ts',
    code: 'await file.datasync();',
    broken: '',
    tests: ['durable-write', 'durable-store'],
  },
  {
    promise: 'a writer that lost its claim moves no offset',
    file: 'runs/uploads.ts',
    code: 'AND offset_bytes = $3 AND writer = $2 AND removed_at IS NULL\n  RETURNING',
    broken: 'AND offset_bytes = $3 AND $2::text IS NOT NULL AND removed_at IS NULL\n  RETURNING',
    tests: ['durable-store'],
  },
  {
    promise: 'what is loaded has the sha256 of the source',
    file: 'load/copy.ts',
    code: 'sha256 !== file.sha256',
    broken: 'sha256 === undefined',
    tests: ['uploads', 'lost-bytes', 'path-of-a-run'],
  },
  {
    promise: 'what is loaded has the lines of the manifest',
    file: 'load/copy.ts',
    code: 'lines !== null && lines !== file.lines',
    broken: 'lines === undefined',
    tests: ['path-of-a-run', 'rejects', 'compressed', 'uploads'],
  },
  {
    promise: 'a key occurs once in a run',
    file: 'load/load.ts',
    code: 'ADD PRIMARY KEY (pk) WITH',
    broken: 'ADD PRIMARY KEY (pk, score) WITH',
    tests: ['rejects', 'path-of-a-run'],
  },
  {
    promise: 'a run without rows is not published',
    file: 'load/load.ts',
    code: 'if (summary.rows === 0) throw noRows(claimed);',
    broken: '',
    tests: ['rejects', 'gates', 'path-of-a-run', 'requests'],
  },
  {
    promise: 'an older run does not replace a newer one',
    file: 'load/publish.ts',
    code: "if (current !== undefined && !isNewer(claimed, current)) return 'superseded';",
    broken: '',
    tests: ['order', 'shown-run'],
  },
  {
    promise: 'a run that breaks a gate is held',
    file: 'load/publish.ts',
    code: "gates.some((gate) => gate.broken) ? 'held' : 'published'",
    broken: "'published'",
    tests: ['gates'],
  },
  {
    promise: 'a run that breaks a gate is published by force only',
    file: 'runs/actions.ts',
    code: 'if (broken.length > 0 && !force) throw brokenGates(run, broken);',
    broken: '',
    tests: ['gates'],
  },
  {
    promise: 'a lost answer to COMMIT is looked up, not taken for a failure',
    file: 'load/loader.ts',
    code: "if (row?.outcome == null || row.outcome === 'lost') throw error;",
    broken: 'throw error;',
    tests: ['loader-statements'],
  },
  {
    promise: 'two loaders never load one revision at once',
    file: 'load/attempts.ts',
    code: 'FOR NO KEY UPDATE OF r SKIP LOCKED',
    broken: '',
    tests: ['loader-faults', 'shares', 'vanished-loaders'],
  },
  {
    promise: 'the same content again is the same revision',
    file: 'runs/declare.ts',
    code: 'return newest.manifest_sha256?.equals(digest) ?? false;',
    broken: 'return false;',
    tests: ['path-of-a-run', 'uploads'],
  },
  {
    promise: 'a run is no larger than its model may be',
    file: 'runs/declare.ts',
    code: 'if (bytes <= maxBytes && (lines ?? 0) <= maxRows) return;',
    broken: 'return;',
    tests: ['shares'],
  },
  {
    promise: 'a token reaches only its models',
    file: 'runs/tokens.ts',
    code: 'return principal.models === null || principal.models.includes(model);',
    broken: 'return true;',
    tests: ['access-matrix'],
  },
  {
    promise: 'a token that was revoked or has expired is refused',
    file: 'runs/tokens.ts',
    code: 'WHERE t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())`',
    broken: '`',
    tests: ['ended-tokens', 'tokens'],
  },
  {
    promise: 'a push token ends only runs of its own',
    file: 'runs/actions.ts',
    code: "if (run.state === 'receiving' && run.declared_by === principal.name) return;",
    broken: 'return;',
    tests: ['withdraw', 'access-matrix'],
  },
  {
    promise: 'keepRevisions revisions are kept to roll back to, and no more',
    file: 'load/retention.ts',
    code: "state = 'cancelled' OR place > keep",
    broken: "state = 'cancelled' OR place > keep + 1",
    tests: ['retention'],
  },
  {
    promise: 'the page hears of a run that another one replaced',
    file: 'runs/watch.ts',
    code: "if (!isSame(entry)) this.#touched.add(entry.slice(entry.indexOf(' ') + 1));",
    broken: '',
    tests: ['events'],
  },
  {
    promise: 'adding up a counter does not change it',
    file: 'runs/status.ts',
    code: 'SELECT name, label, model, sum(amount) FROM folded',
    broken: 'SELECT name, label, model, max(amount) FROM folded',
    tests: ['history'],
  },
  {
    promise: 'history is kept while its rows are',
    file: 'runs/expiry.ts',
    code: "keepsRows('r')}\n      ORDER BY",
    broken: "keepsRows('r')} OR true\n      ORDER BY",
    tests: ['history'],
  },
  {
    promise: 'content pushed again after pruning keeps its date',
    file: 'runs/declare.ts',
    code: 'const asOf = found ?? prunedDate(newest, digest);',
    broken: 'const asOf = found;',
    tests: ['history'],
  },
];

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const word = process.argv[2] ?? '';
const chosen = MUTANTS.filter(({ promise }) => promise.includes(word));
const dir = await mkdtemp(join(tmpdir(), 'score-ingest-mutants-'));
const checkout = join(dir, 'checkout');
let unnoticed = 0;
try {
  await command('git', ['worktree', 'add', '--detach', checkout, 'HEAD'], ROOT);
  // The packages that the service uses are those of this checkout; they must be built.
  for (const folder of ['.', 'apps/ingest-api'])
    await symlink(join(ROOT, folder, 'node_modules'), join(checkout, folder, 'node_modules'));
  console.log('| promise that was broken | test that failed | s |\n| --- | --- | ---: |');
  for (const mutant of chosen) {
    const startedMs = performance.now();
    const failed = await firstFailure(mutant);
    if (failed === undefined) unnoticed += 1;
    const seconds = ((performance.now() - startedMs) / 1000).toFixed(0);
    console.log(`| ${mutant.promise} | ${failed ?? '**none**'} | ${seconds} |`);
  }
} finally {
  await command('git', ['worktree', 'remove', '--force', checkout], ROOT).catch(() => {});
  await rm(dir, { recursive: true, force: true });
}
console.error(`${chosen.length} mutants, ${unnoticed} that no test noticed`);
process.exitCode = unnoticed === 0 ? 0 : 1;

/** @returns the file and the name of the test; undefined when all pass. */
async function firstFailure({ promise, file, code, broken, tests }: Mutant): Promise<string | undefined> {
  const path = join(checkout, 'apps/ingest-api/src', file);
  const text = await readFile(path, 'utf8');
  if (text.split(code).length !== 2)
    throw new Error(`"${promise}": ${file} must have this code exactly once: ${code}`);
  await writeFile(
    path,
    text.replace(code, () => broken),
  );
  try {
    for (const test of tests) {
      const { code: exit, stdout } = await mocha(`apps/ingest-api/test/${test}.test.ts`);
      if (exit !== 0) return `${test}.test.ts: ${failureIn(stdout)}`;
    }
    return undefined;
  } finally {
    await writeFile(path, text);
  }
}

/** Of the reporter `json`, which mocha prints after what tests print. */
function failureIn(stdout: string): string {
  try {
    const start = stdout.indexOf('{\n  "stats"');
    const result = JSON.parse(stdout.slice(start)) as { failures: readonly { fullTitle: string }[] };
    return result.failures[0]?.fullTitle ?? 'the file failed';
  } catch {
    return 'the file could not be run';
  }
}

function mocha(file: string) {
  return command(
    join(ROOT, 'node_modules/.bin/mocha'),
    [file, '--bail', '--reporter', 'json'],
    checkout,
    false,
  );
}

async function command(name: string, args: readonly string[], cwd: string, mustSucceed = true) {
  const child = spawn(name, args, { cwd, stdio: ['ignore', 'pipe', 'ignore'] });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (mustSucceed && code !== 0) throw new Error(`${name} ${args.join(' ')} ended with ${code}: ${stdout}`);
  return { code, stdout };
}
