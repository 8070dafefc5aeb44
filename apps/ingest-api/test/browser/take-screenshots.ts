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

const FOLDER = fileURLToPath(new URL('../../../../docs/screenshots/', import.meta.url));
const MONTHS = ['2026-04', '2026-05', '2026-06', '2026-07', '2026-08', '2026-09', '2026-10', '2026-11'];
const MODELS = ['cards_upsell', 'churn', 'credit_risk', 'fraud_online', 'loan_propensity', 'mail_response'];
const CHUNK_BYTES = 250_000;
const PATIENCE_MS = 60_000;

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
    run_id: 'scheduled__2026-11-01',
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

async function fill(system: TestSystem, operator: string): Promise<void> {
  for (const [row, model] of MODELS.entries()) {
    for (const [column, month] of MONTHS.slice(0, -1).entries()) {
      const isMissing =
        (model === 'mail_response' && column < 3) || (model === 'churn' && month === '2026-07');
      if (!isMissing) await push(system, model, month, 40 + row * 3 + column / 4);
    }
  }
  await push(system, 'cards_upsell', '2026-11', 42);
  await push(system, 'mail_response', '2026-11', 57);
  const bad = '{ "pk": "771042", "score": "high" }\n{ "pk": "771043" }\n{ "pk": "771044", "score": NaN }\n';
  await push(system, 'fraud_online', '2026-11', 50, bad);
  const contract = { json: { maxScoreShiftPsi: 0.25, maxRowChangePercent: 20 }, token: operator };
  await system.request('PUT', '/v1/models/loan_propensity', contract);
  await push(system, 'loan_propensity', '2026-11', 74);
}

/** A run of which one file is stalled, and one that is being sent slowly while the pictures are taken. */
async function keepSending(system: TestSystem): Promise<void> {
  const parts = [1, 2].map((part) => ({
    name: `part-${part}.jsonl`,
    content: scores(20_000, 45, part * 10_000_000),
  }));
  const asOf = { as_of: '2026-11-01T00:00:00Z' };
  await declare(system, 'credit_risk', '2026-11', parts, { ...asOf, source: sourceOf('credit_risk', 2) });
  const [stuck] = (await getRun(system, 'credit_risk', '2026-11')).missing.files;
  await patch(system, stuck?.uploadUrl ?? '', 0, Buffer.from(parts[0]?.content ?? '').subarray(0, 300_000));
  await system.query(`UPDATE ingest.upload SET last_progress_at = now() - interval '11 minutes'
    WHERE received_at IS NULL`);

  const files = [1, 2, 3].map((part) => ({
    name: `part-${part}.jsonl`,
    content: scores(200_000, 45, part * 10_000_000),
  }));
  const declared = await declare(system, 'churn', '2026-11', files, {
    ...asOf,
    source: sourceOf('churn', 1),
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
  const letGo = await holdBackend(
    system,
    'pg_stat_progress_create_index',
    `phase = 'building index: scanning table' AND blocks_done * 2 > blocks_total`,
  );
  const context = await browser.newContext({ colorScheme: 'light', viewport: { width: 1280, height: 800 } });
  try {
    const page = await context.newPage();
    await signIn(page, system, operator, '#/runs/churn/2026-11');
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

async function takePictures(browser: Browser, system: TestSystem, operator: string): Promise<void> {
  for (const colorScheme of ['light', 'dark'] as const) {
    const context = await browser.newContext({ colorScheme, viewport: { width: 1280, height: 800 } });
    const page = await context.newPage();
    await signIn(page, system, operator);
    await page.getByRole('heading', { name: 'Runs by model and month' }).waitFor();
    await delay(1_500);
    const picture = (name: string) => page.screenshot({ path: path.join(FOLDER, name), fullPage: true });
    await picture(`overview-${colorScheme}.png`);
    const runs = colorScheme === 'light' ? ['failed fraud_online', 'held loan_propensity'] : ['live churn'];
    for (const [name, model] of runs.map((text) => text.split(' '))) {
      await page.goto(`${system.url}/#/runs/${model}/2026-11`);
      await page.getByRole('heading', { name: 'Audit log' }).waitFor();
      await delay(1_000);
      await picture(`run-${name}.png`);
    }
    if (colorScheme === 'light') {
      await page.setViewportSize({ width: 390, height: 844 });
      await page.goto(`${system.url}/#/`);
      await page.getByRole('heading', { name: 'Runs by model and month' }).waitFor();
      await picture('phone.png');
    }
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
  await fill(system, operator);
  const sending = keepSending(system);
  await delay(12_000);
  await takePictures(browser, system, operator);
  await Promise.all([pictureOfLoading(browser, system, operator), sending]);
} finally {
  await browser?.close();
  await system.stop();
  await postgres.stop();
}
