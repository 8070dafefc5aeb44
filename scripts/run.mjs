#!/usr/bin/env node
// Makes the checkout ready, then runs a task on Node 26: `npm run lab`, `npm test`, `npm run torture`, `npm run bench`,
// `npm run build:uploader`, or nothing (`npm run setup`). This file, setup.mjs and steps.mjs run on any Node from 18 on,
// without packages.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setUp } from './setup.mjs';
import { runAttached, StepFailed, toolEnvironment } from './steps.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
/** The slowest first: several processes share them, and none is to end long after the others. */
const TEST_FILES = [
  'e2e/**/*.test.ts',
  'apps/*/test/**/*.test.ts',
  'packages/*/test/**/*.test.ts',
  'bench/test/**/*.test.ts',
];
/** They need the S3 server, which is built beside the others. */
const S3_TEST_FILES = [
  'e2e/many-hosts.test.ts',
  'e2e/s3-credentials.test.ts',
  'apps/ingest-api/test/s3-faults.test.ts',
  'apps/ingest-api/test/store.test.ts',
  'apps/ingest-api/test/store-move.test.ts',
];
/** They measure how soon a service answers, so nothing else runs beside them. */
const TIMED_TEST_FILES = [
  'e2e/bounded-answers.test.ts',
  'e2e/hostile-bodies.test.ts',
  'e2e/many-models.test.ts',
  'e2e/many-uploads.test.ts',
  'apps/ingest-api/test/true-progress.test.ts',
];

const FIX_TYPES = 'Fix the type errors above.';

const [task, ...args] = process.argv.slice(2);
const tasks = { setup: async () => {}, test, lab, torture, bench, 'build-uploader': buildUploader };
const run = Object.hasOwn(tasks, task ?? '') ? tasks[task] : undefined;

if (run === undefined) {
  console.error(
    'Usage: node scripts/run.mjs setup|test|lab|torture|bench|build-uploader [arguments of the task]',
  );
  process.exit(2);
}
if (Number.parseInt(process.versions.node, 10) < 18) {
  console.error(`This needs Node 18 or newer, and this is Node ${process.version}. Install a newer one.`);
  process.exit(2);
}
try {
  await setUp(ROOT);
  await run();
} catch (error) {
  if (!(error instanceof StepFailed)) throw error;
  process.exitCode = error.signal ? 128 + constants.signals[error.signal] : error.code;
  // From 128 on, a person has stopped the task by a signal.
  if (process.exitCode < 128) console.error(`\n${error.message}`);
}

async function test() {
  // Without this option biome writes colours into log files too.
  const colors = process.stdout.isTTY ? [] : ['--colors=off'];
  await attached(
    'biome',
    ['ci', '.', ...colors],
    'Run `npm run format` to fix what can be fixed automatically.',
  );
  await attached('turbo', ['run', 'typecheck', '--output-logs=errors-only'], FIX_TYPES);
  await attached('tsc', ['--project', '.'], FIX_TYPES);
  const hint = 'The failed tests are listed above.';
  if (args.length > 0) {
    const namesFiles = args.some((arg) => /\.[cm]?ts$/.test(arg));
    await attached('mocha', namesFiles ? args : [...args, ...TEST_FILES], hint);
    return;
  }
  // One more than the cores of a small machine: most of these tests wait, for time-outs and for other processes.
  const parallel = ['--parallel', '--jobs', '3'];
  const notYet = [...S3_TEST_FILES, ...TIMED_TEST_FILES].map((file) => `--ignore=${file}`);
  const s3Server = buildS3Server();
  s3Server.catch(() => {}); // awaited below
  let results = await mocha([...parallel, ...notYet, ...TEST_FILES]);
  await s3Server;
  results = { ...results, ...(await mocha([...parallel, ...S3_TEST_FILES])) };
  results = { ...results, ...(await mocha(TIMED_TEST_FILES)) };
  // A test that misses a deadline on a busy machine says nothing about the product. Its file runs once more, alone, and
  // that result counts; the output names both.
  const firstFailures = failuresIn(results);
  const failed = [...new Set(firstFailures.map(([file]) => file))];
  if (failed.length > 0) results = { ...results, ...(await mocha(failed)) };
  for (const [file, failure] of firstFailures) console.log(`Failed at first: ${file}: ${failure}`);
  if (failed.length > 0) console.log(`Run once more, alone: ${failed.join(', ')}`);

  const failures = failuresIn(results);
  for (const [file, failure] of failures) console.log(`FAILED: ${file}: ${failure}`);
  const sum = (count) => Object.values(results).reduce((total, result) => total + result[count], 0);
  console.log(`${sum('passed')} passed, ${failures.length} failed, ${sum('skipped')} skipped`);
  if (failures.length > 0) throw new StepFailed(hint);
}

/** Runs mocha. Answers the results of each file; throws StepFailed when mocha was stopped or ended without results. */
async function mocha(mochaArgs) {
  const folder = mkdtempSync(join(tmpdir(), 'test-report-'));
  const report = join(folder, 'report.json');
  try {
    const failure = await runAttached(
      join(ROOT, 'node_modules/.bin/mocha'),
      ['--reporter', './scripts/test-report.ts', ...mochaArgs],
      {
        cwd: ROOT,
        env: { ...toolEnvironment(ROOT), TEST_REPORT: report },
        hint: 'The error is above.',
      },
    ).catch((error) => error);
    const results = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')) : {};
    const explained = failure === undefined || failuresIn(results).length > 0;
    if (failure?.signal || !explained) throw failure;
    return results;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function failuresIn(results) {
  return Object.entries(results).flatMap(([file, { failures }]) =>
    failures.map((failure) => [file, failure]),
  );
}

/** Builds it with Go, if there is Go, unless an earlier run has; tests that find none are skipped. */
async function buildS3Server() {
  const build = `import('${join(ROOT, 'packages/local-s3/src/index.ts')}').then((it) => it.versityGateway())`;
  await attached('node', ['--eval', build], 'The error is above.');
}

async function buildUploader() {
  const script = join(ROOT, 'apps/uploader/scripts/build-executable.ts');
  await attached('node', [script], 'The error is above.');
}

async function lab() {
  await attached(
    'node',
    [join(ROOT, 'scripts/lab/main.ts'), ...args],
    'The error is above; the logs are in .lab/logs (or $LAB_HOME/logs).',
  );
}

async function torture() {
  await attached(
    'node',
    [join(ROOT, 'e2e/torture/main.ts'), ...args],
    'A promise was broken; the seed is above.',
  );
}

async function bench() {
  await attached('node', [join(ROOT, 'bench/main.ts'), ...args], 'The error is above.');
}

function attached(tool, toolArgs, hint) {
  return runAttached(join(ROOT, 'node_modules/.bin', tool), toolArgs, {
    cwd: ROOT,
    env: toolEnvironment(ROOT),
    hint,
  });
}
