// node apps/ingest-api/test/browser/take-screenshots.ts: takes docs/screenshots again, from a system of its own.
import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startPostgres } from 'local-postgres';
import type { Browser, Page } from 'playwright-core';
import { holdBackend } from '../support/hold-backend.ts';
import {
  declare,
  getRun,
  patch,
  pushRun,
  startSystem,
  type TestSystem,
  untilFinal,
} from '../support/system.ts';
import { launchChromium } from './chromium.ts';
import { monthsAgo, recordHistory } from './sample-history.ts';

const FOLDER = fileURLToPath(new URL('../../../../docs/screenshots/', import.meta.url));
const CHUNK_BYTES = 250_000;
const PATIENCE_MS = 60_000;

const NOW = monthsAgo(0);
/** Models whose last runs are really pushed; of the others there are only records. */
const PUSHED = {
  failed: 'cards_fraud',
  held: 'loans_upsell',
  stalled: 'mortgage_credit_risk',
  live: 'retail_churn',
};

/** `count` scores, bell-shaped around `mean`: keys in no order, always the same. */
function scores(count: number, mean: number, first = 10_000_000): string {
  let text = '';
  for (let row = 0; row < count; row += 1) {
    const noise = ((row * 7919) % 997) + ((row * 104_729) % 991) + ((row * 1_299_709) % 983);
    text += `{ "pk": "${first + ((row * 48_271) % 999_983)}", "score": "${(mean + (noise - 1485) / 40).toFixed(2)}" }\n`;
  }
  return text;
}

const sourceOf = (model: string, attempt: number) => ({
  host: 'airflow-worker-3',
  user: 'airflow',
  uploader: '0.1.0',
  airflow: {
    dag_id: `score_${model}`,
    task_id: 'push',
    run_id: `scheduled__${NOW}-01`,
    try_number: String(attempt),
  },
});

async function push(system: TestSystem, model: string, month: string, mean: number, bad = ''): Promise<void> {
  const files = [1, 2, 3].map((part) => ({
    name: `part-${part}.jsonl`,
    content: scores(700, mean, 10_000_000 * part) + (part === 2 ? bad : ''),
  }));
  await pushRun(system, model, month, files, { as_of: `${month}-01T00:00:00Z`, source: sourceOf(model, 1) });
  await untilFinal(system, model, month, PATIENCE_MS);
}

async function fill(system: TestSystem): Promise<void> {
  await recordHistory(system, Object.values(PUSHED));
  // What the pushed runs are compared with has rows, too.
  for (const model of Object.values(PUSHED)) await push(system, model, monthsAgo(1), 48);
  const contract = {
    expectEvery: '1 month',
    expectGrace: '10 days',
    maxRowChangePercent: 20,
    maxScoreShiftPsi: 0.25,
    minRows: 1_000,
  };
  const owner = { owner: 'Ana Souza', contact: '#customer-scores' };
  await system.query('UPDATE ingest.model SET contract = $1', [{ ...contract, ...owner }]);
  await system.query('UPDATE ingest.model SET contract = $1 WHERE name = $2', [owner, PUSHED.live]);
  const bad = '{ "pk": "771042", "score": "high" }\n{ "pk": "771043" }\n{ "pk": "771044", "score": NaN }\n';
  await push(system, PUSHED.failed, NOW, 50, bad);
  await push(system, PUSHED.held, NOW, 74);
}

/** A run of which one file is stalled, and one that is being sent slowly while the pictures are taken. */
async function keepSending(system: TestSystem): Promise<void> {
  const parts = [1, 2].map((part) => ({
    name: `part-${part}.jsonl`,
    content: scores(20_000, 45, part * 10_000_000),
  }));
  const asOf = { as_of: `${NOW}-01T00:00:00Z` };
  await declare(system, PUSHED.stalled, NOW, parts, { ...asOf, source: sourceOf(PUSHED.stalled, 2) });
  const [stuck] = (await getRun(system, PUSHED.stalled, NOW)).missing.files;
  await patch(system, stuck?.uploadUrl ?? '', 0, Buffer.from(parts[0]?.content ?? '').subarray(0, 300_000));
  await system.query(`UPDATE ingest.upload SET last_progress_at = now() - interval '11 minutes'
    WHERE received_at IS NULL`);

  const files = [1, 2, 3].map((part) => ({
    name: `part-${part}.jsonl`,
    content: scores(200_000, 45, part * 10_000_000),
  }));
  const declared = await declare(system, PUSHED.live, NOW, files, {
    ...asOf,
    source: sourceOf(PUSHED.live, 1),
  });
  for (const file of declared.missing.files) {
    const bytes = Buffer.from(files.find(({ name }) => name === file.name)?.content ?? '');
    for (let offset = 0; offset < bytes.length; offset += CHUNK_BYTES) {
      await patch(system, file.uploadUrl, offset, bytes.subarray(offset, offset + CHUNK_BYTES));
      // The pace of a slow line, with its ups and downs.
      await delay(180 + 140 * Math.abs(Math.sin(offset / 1_300_000)));
    }
  }
}

/** A load in the middle of the build of its key; its backend is held still for the picture. */
async function pictureOfLoading(browser: Browser, system: TestSystem, operator: string): Promise<void> {
  const run = `${NOW}-15`;
  const files = [1, 2, 3].map((part) => ({
    name: `part-${part}.jsonl`,
    content: scores(300_000, 45, part * 10_000_000),
  }));
  const [letGo] = await Promise.all([
    holdBackend(
      system,
      'pg_stat_progress_create_index',
      `phase = 'building index: scanning table' AND blocks_done * 2 > blocks_total`,
    ),
    pushRun(system, PUSHED.live, run, files, { source: sourceOf(PUSHED.live, 1) }),
  ]);
  const context = await browser.newContext({ colorScheme: 'light', viewport: { width: 1280, height: 800 } });
  try {
    const page = await context.newPage();
    await signIn(page, system, operator, `#/runs/${PUSHED.live}/${run}`);
    await page.getByText('Building the primary key').first().waitFor();
    await delay(1_500);
    await page.screenshot({ path: path.join(FOLDER, 'run-loading.png') });
  } finally {
    letGo();
    await context.close();
  }
}

async function signIn(page: Page, system: TestSystem, operator: string, hash = ''): Promise<void> {
  await page.goto(`${system.url}/${hash}`);
  await page.getByLabel('Token').fill(operator);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('night-shift').waitFor();
}

const SIZES = {
  desktop: { width: 1600, height: 1200 },
  laptop: { width: 1280, height: 800 },
  phone: { width: 390, height: 844 },
} as const;

/** Of each page one, together in every size, light and dark. The live one is first, before the run has ended. */
const PICTURES: readonly (readonly [
  name: string,
  hash: string,
  size: keyof typeof SIZES,
  colorScheme: 'light' | 'dark',
])[] = [
  ['run-live', `#/runs/${PUSHED.live}/${NOW}`, 'laptop', 'dark'],
  ['overview-light', '#/', 'desktop', 'light'],
  ['overview-dark', '#/', 'laptop', 'dark'],
  ['model-light', '#/models/cards_cross_sell_2', 'desktop', 'light'],
  ['model-dark', '#/models/broker_churn', 'laptop', 'dark'],
  ['run-failed', `#/runs/${PUSHED.failed}/${NOW}`, 'laptop', 'light'],
  ['run-held', `#/runs/${PUSHED.held}/${NOW}`, 'laptop', 'light'],
  ['phone', '#/', 'phone', 'light'],
];

async function takePictures(browser: Browser, system: TestSystem, operator: string): Promise<void> {
  for (const [name, hash, size, colorScheme] of PICTURES) {
    const context = await browser.newContext({ colorScheme, viewport: SIZES[size] });
    const page = await context.newPage();
    await signIn(page, system, operator, hash);
    await page.getByRole('heading', { name: /^(Runs|Audit log)/ }).waitFor();
    if (name === 'overview-light') await page.getByRole('button', { name: /Need nobody/ }).click();
    await delay(1_200);
    await page.screenshot({ path: path.join(FOLDER, `${name}.png`), fullPage: size !== 'desktop' });
    await context.close();
  }
}

await mkdir(FOLDER, { recursive: true });
const dataDir = await mkdtemp(path.join(tmpdir(), 'screenshots-'));
const postgres = await startPostgres({ dataDir, temporary: true, settings: { fsync: 'off' } });
process.env.TEST_DATABASE_URL = postgres.superuserUrl;
const system = await startSystem({ maxUploadBytes: 64 * 1024 ** 3 });
const browser = await launchChromium();
try {
  if (browser === undefined) throw new Error('The pictures need a Chromium.');
  const operator = await system.createToken({ name: 'night-shift', scopes: ['read', 'operate'] });
  system.startLoader();
  await fill(system);
  const sending = keepSending(system);
  await delay(12_000);
  await takePictures(browser, system, operator);
  await sending;
  await pictureOfLoading(browser, system, operator);
} finally {
  await browser?.close();
  await system.stop();
  await postgres.stop();
}
