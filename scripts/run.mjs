#!/usr/bin/env node
// Makes the checkout ready, then runs a task on Node 26: `npm run lab`, `npm test`, `npm run test:postgres`, `npm run torture`,
// `npm run bench`, `npm run mutants`, `npm run build:uploader`, or nothing (`npm run setup`). This file, setup.mjs and steps.mjs run on
// any Node from 18 on, without packages.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setUp } from './setup.mjs';
import { runAttached, StepFailed, toolEnvironment } from './steps.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
/** The slowest first: several processes share their files, and none is to end long after the others. */
const TEST_FOLDERS = ['bench', 'e2e', 'apps', 'packages'];
/** They come late, because they need the S3 server, which is built meanwhile. */
const S3_TEST_FILES = [
  'e2e/many-hosts.test.ts',
  'e2e/s3-credentials.test.ts',
  'apps/ingest-api/test/lost-objects.test.ts',
  'apps/ingest-api/test/s3-faults.test.ts',
  'apps/ingest-api/test/store.test.ts',
  'apps/ingest-api/test/store-move.test.ts',
];
/** They measure how soon a service answers, so nothing else runs beside them. */
const TIMED_TEST_FILES = [
  'e2e/hostile-bodies.test.ts',
  'e2e/many-models.test.ts',
  'e2e/many-uploads.test.ts',
  'apps/ingest-api/test/true-progress.test.ts',
];
/** What `npm run test:postgres` takes; `npm test` runs everything on the newest, and OLDEST_TEST_FILES on the oldest. */
const POSTGRES_VERSIONS = ['14', '15', '16', '17', '18'];
/** The whole path and the SQL that differs between versions: roles, grants, statistics, DETACH, settings of sessions. */
const OLDEST_TEST_FILES = [
  'packages/db-schema/test/find-upload.test.ts',
  'packages/db-schema/test/migrate.test.ts',
  'packages/db-schema/test/privileges.test.ts',
  'packages/db-schema/test/readers.test.ts',
  'packages/db-schema/test/roles.test.ts',
  'apps/ingest-api/test/databases-of-others.test.ts',
  'apps/ingest-api/test/retention.test.ts',
];

/** Twice the cores of a small machine: most of these tests wait, for time-outs and for other processes. */
const PARALLEL = ['--parallel', '--jobs', '4'];

const FIX_TYPES = 'Fix the type errors above.';

const [task, ...args] = process.argv.slice(2);
const tasks = {
  setup: async () => {},
  test,
  'test-postgres': testPostgres,
  lab,
  torture,
  bench,
  mutants,
  'build-uploader': buildUploader,
};
const run = Object.hasOwn(tasks, task ?? '') ? tasks[task] : undefined;

if (run === undefined) {
  console.error(
    'Usage: node scripts/run.mjs setup|test|test-postgres|lab|torture|bench|mutants|build-uploader [arguments of the task]',
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
    await attached('mocha', namesFiles ? args : [...args, ...testFiles()], hint);
    return;
  }
  const newest = await testAll(testFiles());
  const [oldest = ''] = POSTGRES_VERSIONS;
  console.log(`On PostgreSQL ${oldest}:`);
  report([newest, await onPostgres(oldest, () => repeatFailed([...PARALLEL, ...OLDEST_TEST_FILES]))], hint);
}

/**
 * Every test that touches PostgreSQL, but for those that measure time, on each of the versions that the arguments name; all of
 * them by default.
 */
async function testPostgres() {
  const versions = args.length > 0 ? args : POSTGRES_VERSIONS;
  const unknown = versions.find((version) => !POSTGRES_VERSIONS.includes(version));
  if (unknown !== undefined)
    throw new StepFailed(`There is no PostgreSQL ${unknown} here. Use ${POSTGRES_VERSIONS.join(', ')}.`, {
      code: 2,
    });
  const files = filesThatTouchPostgres();
  const matrix = [];
  for (const version of versions) {
    console.log(`PostgreSQL ${version}: ${files.length} test files`);
    matrix.push(await onPostgres(version, () => testAll(files)));
  }
  const cell = ({ passed, skipped, failures } = { passed: 0, skipped: 0, failures: [] }) =>
    failures.length > 0
      ? `${failures.length} failed`
      : passed > 0
        ? `${passed}`
        : skipped > 0
          ? 'skipped'
          : '-';
  const line = (name, cells) => console.log(name.padEnd(56) + cells.map((it) => it.padStart(9)).join(''));
  console.log('Tests passed:');
  line('', versions);
  for (const file of files)
    line(
      file,
      matrix.map((results) => cell(results[file])),
    );
  report(matrix, 'The failed tests are listed above.');
}

/** Those that import `local-postgres` or use its server, also by their support files. */
function filesThatTouchPostgres() {
  const touches = new Map();
  const doesTouch = (file) => {
    if (!touches.has(file)) {
      touches.set(file, false); // files may import each other
      const text = readFileSync(file, 'utf8');
      const imports = [...text.matchAll(/from '(\.[^']+\.ts)'/g)].map((match) =>
        join(dirname(file), match[1]),
      );
      touches.set(
        file,
        /'local-postgres'|TEST_DATABASE_URL/.test(text) ||
          imports.some((it) => !it.includes('/src/') && doesTouch(it)),
      );
    }
    return touches.get(file);
  };
  return testFiles().filter(
    (file) => !file.startsWith('bench/') && !TIMED_TEST_FILES.includes(file) && doesTouch(join(ROOT, file)),
  );
}

function testFiles() {
  const filesIn = (folder) =>
    readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : filesIn(path);
      return entry.name.endsWith('.test.ts') ? [path] : [];
    });
  return TEST_FOLDERS.flatMap(filesIn);
}

async function onPostgres(version, work) {
  const install = `import('${join(ROOT, 'packages/local-postgres/src/versions.ts')}').then((it) => it.postgresModule('${version}'))`;
  await attached('node', ['--eval', install], 'The error is above.');
  process.env.LOCAL_POSTGRES = version;
  try {
    return await work();
  } finally {
    delete process.env.LOCAL_POSTGRES;
  }
}

/** Those that measure time run by themselves. */
async function testAll(files) {
  const s3Server = buildS3Server();
  s3Server.catch(() => {}); // awaited below
  const timed = files.filter((file) => TIMED_TEST_FILES.includes(file));
  const usesS3 = (file) => S3_TEST_FILES.includes(file);
  const isShort = (file) => file.startsWith('packages/');
  const others = files.filter((file) => !timed.includes(file) && !usesS3(file));
  const results = await repeatFailed(
    [
      ...PARALLEL,
      ...others.filter((file) => !isShort(file)),
      ...files.filter(usesS3),
      ...others.filter(isShort),
    ],
    timed,
  );
  await s3Server;
  return results;
}

/**
 * A test that misses a deadline on a busy machine says nothing about the product. Its file runs once more, alone, and that
 * result counts; the output names both.
 */
async function repeatFailed(...passes) {
  let results = {};
  for (const pass of passes) if (pass.length > 0) results = { ...results, ...(await mocha(pass)) };
  const firstFailures = failuresIn(results);
  const failed = [...new Set(firstFailures.map(([file]) => file))];
  if (failed.length > 0) results = { ...results, ...(await mocha(failed)) };
  for (const [file, failure] of firstFailures) console.log(`Failed at first: ${file}: ${failure}`);
  if (failed.length > 0) console.log(`Run once more, alone: ${failed.join(', ')}`);
  return results;
}

/** Of one run, or of the runs on several versions. */
function report(matrix, hint) {
  const failures = matrix.flatMap(failuresIn);
  for (const [file, failure] of failures) console.log(`FAILED: ${file}: ${failure}`);
  const sum = (count) =>
    matrix.flatMap((results) => Object.values(results)).reduce((total, result) => total + result[count], 0);
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

async function mutants() {
  await attached(
    'node',
    [join(ROOT, 'scripts/mutants.ts'), ...args],
    'No test noticed a promise that was broken.',
  );
}

function attached(tool, toolArgs, hint) {
  return runAttached(join(ROOT, 'node_modules/.bin', tool), toolArgs, {
    cwd: ROOT,
    env: toolEnvironment(ROOT),
    hint,
  });
}
