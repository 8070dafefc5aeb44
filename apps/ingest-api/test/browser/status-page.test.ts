import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { expect } from 'chai';
import type { Browser, Page } from 'playwright-core';
import { holdBackend } from '../support/hold-backend.ts';
import { startPathProxy } from '../support/raw-http.ts';
import {
  declare,
  eventually,
  getRun,
  patch,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from '../support/system.ts';
import { launchChromium } from './chromium.ts';
import { recordHistory } from './sample-history.ts';

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const PATIENCE_MS = 15_000;

const monthOf = (run: string) => ({ as_of: `${run}-01T00:00:00Z` });

interface AxeResult {
  readonly violations: readonly {
    readonly id: string;
    readonly impact: string;
    readonly nodes: readonly { readonly html: string }[];
  }[];
}

describe('the status page', () => {
  let browser: Browser | undefined;
  let system: TestSystem;
  let token: string;
  let page: Page;
  /** What the browser complains of: scripts that failed, and what the content security policy has stopped. */
  let complaints: string[];

  before(async function () {
    this.timeout(300_000);
    browser = await launchChromium();
    if (browser === undefined) return this.skip();
    system = await startSystem();
    token = await system.createToken({ name: 'night-shift', scopes: ['read', 'operate'] });
    system.startLoader();
    await load('churn', '2026-09', 100);
    await load('churn', '2026-10', 100);
    await pushRun(system, 'fraud', '2026-10', [{ name: 'a.jsonl', content: '{"pk":"1","score":"high"}\n' }]);
    await untilFinal(system, 'fraud', '2026-10', PATIENCE_MS);
  });

  after(async () => {
    await browser?.close();
    await system?.stop();
  });

  beforeEach(async () => {
    if (browser === undefined) return;
    complaints = [];
    page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') complaints.push(message.text());
    });
  });

  afterEach(() => page?.close());

  async function load(model: string, run: string, rows: number): Promise<void> {
    await pushRun(system, model, run, [{ name: 'a.jsonl', content: scoreLines(rows) }], monthOf(run));
    await untilFinal(system, model, run, PATIENCE_MS);
  }

  async function signIn(hash = '', address = system.url): Promise<void> {
    await page.goto(`${address}/${hash}`);
    await page.getByLabel('Token').fill(token);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('night-shift').waitFor();
  }

  const seeState = (state: string) => page.locator('.title .badge', { hasText: state }).waitFor();
  const shownRun = async (model: string) =>
    (await system.query(`SELECT DISTINCT run FROM scores.${model}`)).map(({ run }) => run);

  async function act(button: string, reason: string): Promise<void> {
    await page.getByRole('button', { name: button }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Reason').fill(reason);
    await dialog.getByRole('button', { name: button }).click();
    await dialog.waitFor({ state: 'detached' });
  }

  /** Rules that axe calls serious or critical, in what is shown now. */
  async function seriousFaults(): Promise<string[]> {
    // Evaluated by the driver, which the page's own policy does not bind.
    await page.evaluate(await readFile(AXE, 'utf8'));
    const { violations } = await page.evaluate<AxeResult>('axe.run()');
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' | ')}`);
  }

  it('shows no control or bidirectional character of what a sender says of itself', async () => {
    const evil = '\u001b[31m\u009b2J\u202egnp.exe\u2066';
    const source = {
      host: `host${evil}`,
      user: evil,
      airflow: { dag_id: evil, task_id: evil, run_id: evil, try_number: 1 },
    };
    const files = [{ name: 'a.jsonl', content: scoreLines(10) }];
    await pushRun(system, 'direction', '2026-10', files, { source });
    await untilFinal(system, 'direction', '2026-10', PATIENCE_MS);
    await signIn('#/runs/direction/2026-10');
    await page.getByText('host\\u{1b}[31m').first().waitFor();
    const shown = await page.evaluate<string>('document.documentElement.textContent');
    expect(shown).not.to.match(/(?!\n)[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u);
  });

  it('works below the path of a proxy: sign-in, live changes, files and links', async () => {
    const proxy = await startPathProxy(system.url, '/data/ingest');
    await signIn('', proxy.url);
    await page.getByRole('link', { name: 'fraud 2026-10' }).first().click();
    await seeState('failed');
    expect(page.url()).to.equal(`${proxy.url}/#/runs/fraud/2026-10`);
    const addresses = await page.evaluate<string[]>(
      'performance.getEntriesByType("resource").map(({ name }) => name).concat([...document.querySelectorAll("a[href]")].map(({ href }) => href))',
    );
    expect(addresses.filter((address) => !address.startsWith(`${proxy.url}/`))).to.deep.equal([]);
    expect(complaints.filter((complaint) => !complaint.includes('401'))).to.deep.equal([]);
    await page.goto('about:blank'); // ends the stream of events
    await proxy.stop();
  });

  it('lets nobody in with a token that is unknown, and says why', async () => {
    await page.goto(system.url);
    await page.getByLabel('Token').fill('si_unknown');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('alert').getByText('unknown, expired or revoked').waitFor();
  });

  it('keeps no token but a session, where no script reads it, and ends it at sign-out', async () => {
    await signIn();
    const [cookie] = await page.context().cookies();
    expect(cookie).to.include({ httpOnly: true, sameSite: 'Strict' });
    expect(await page.evaluate('document.cookie')).to.equal('');
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByLabel('Token').waitFor();
    expect(await page.context().cookies()).to.deep.equal([]);
  });

  it('shows an upload and its load while they run, without being reloaded', async () => {
    const content = scoreLines(2_000);
    const declared = await declare(system, 'uplift', '2026-10', [{ name: 'part-1.jsonl', content }]);
    await signIn('#/runs/uplift/2026-10');
    await seeState('receiving');
    const bytes = Buffer.from(content);
    const half = Math.floor(bytes.length / 2);
    const address = declared.missing.files[0]?.uploadUrl ?? '';
    await patch(system, address, 0, bytes.subarray(0, half));
    await page
      .getByRole('row', { name: /part-1\.jsonl/ })
      .getByText(/(49|50) %/)
      .waitFor();
    await page.getByText('Live', { exact: true }).waitFor();
    await patch(system, address, half, bytes.subarray(half));
    await seeState('published');
    await page.getByText('this revision').waitFor();
    expect(complaints).to.deep.equal([]);
  });

  it('shows the files of a run page by page, first those that bytes are missing of', async () => {
    const files = Array.from({ length: 450 }, (_, index) => ({
      name: `part-${String(index).padStart(3, '0')}.jsonl`,
      content: scoreLines(1, 100_000 + index),
    }));
    const declared = await declare(system, 'many', '2026-10', files);
    const first = declared.missing.files[0];
    await patch(system, first?.uploadUrl ?? '', 0, Buffer.from(files[0]?.content ?? ''));
    await signIn('#/runs/many/2026-10');
    const rows = page.getByRole('region', { name: /^Files/ }).getByRole('row');
    const shown = (count: number) =>
      eventually(
        () => rows.count(),
        (rows) => rows === count + 1,
      );
    await page.getByRole('button', { name: 'Incomplete 449', pressed: true }).waitFor();
    await shown(200);
    await page.getByRole('button', { name: 'Show more files' }).click();
    await shown(400);
    await page.getByRole('button', { name: 'Show more files' }).click();
    await shown(449);
    expect(await page.getByRole('button', { name: 'Show more files' }).count()).to.equal(0);
    await page.getByRole('button', { name: 'Received 1' }).click();
    await shown(1);
    await page
      .getByRole('row', { name: /part-000\.jsonl/ })
      .getByText('100 %')
      .waitFor();
    expect(complaints).to.deep.equal([]);
  });

  it('shows files that were removed after their load as received', async () => {
    await load('kept', '2026-10', 10);
    await system.query(`UPDATE ingest.upload SET removed_at = now(), file_removed_at = now()
      FROM ingest.run_file f JOIN ingest.run_revision r USING (revision_id)
      WHERE upload.upload_id = f.upload_id AND r.model = 'kept'`);
    await signIn('#/runs/kept/2026-10');
    const file = page.getByRole('row', { name: /a\.jsonl/ });
    await file.getByText('100 %').waitFor();
    const bar = await page.evaluate<number[]>(
      '[...document.querySelectorAll("[aria-label=\'received of a.jsonl\']")].map(({ value, max }) => value / max)',
    );
    expect(bar).to.deep.equal([1]);
  });

  it('shows the phase of a load while it runs', async () => {
    const files = [{ name: 'a.jsonl', content: scoreLines(400_000) }];
    const [letCopy] = await Promise.all([
      holdBackend(system, 'pg_stat_progress_copy', 'bytes_processed > 0'),
      pushRun(system, 'slow', '2026-10', files),
    ]);
    try {
      await signIn('#/runs/slow/2026-10');
      await seeState('loading');
      const phases = page.getByRole('list', { name: 'Phases of the load' });
      await phases.locator('[aria-current=step]', { hasText: 'Copying rows' }).waitFor();
      await page.getByText(/ rows · .*(left in this step|time left unknown)/).waitFor();
    } finally {
      letCopy();
    }
    const letBuild = await holdBackend(
      system,
      'pg_stat_progress_create_index',
      `phase LIKE 'building index: %'`,
    );
    try {
      const now = page.locator('[aria-current=step]', { hasText: 'Building the primary key' });
      await now.waitFor();
      await page
        .getByText(/^(reading the rows|sorting \(PostgreSQL|writing the index).* · 400,000 rows/)
        .waitFor();
    } finally {
      letBuild();
    }
    await seeState('published');
    expect(complaints).to.deep.equal([]);
  });

  it('says why a run was rejected, where, and shows the line', async () => {
    await signIn();
    await page.getByRole('link', { name: /^fraud 2026-10: failed/ }).click();
    await seeState('failed');
    await page
      .getByRole('alert')
      .getByText(/score must be a finite number/)
      .waitFor();
    await page.getByText('{"pk":"1","score":"high"}').waitFor();
    expect(complaints).to.deep.equal([]);
  });

  it('publishes a held run, and rolls back, each with a reason that is kept', async () => {
    const operator = { token };
    await system.request('PUT', '/v1/models/churn', { ...operator, json: { maxRowChangePercent: 10 } });
    await load('churn', '2026-11', 500);
    await signIn('#/runs/churn/2026-11');
    await seeState('held');
    expect(await shownRun('churn')).to.deep.equal(['2026-10']);
    await page.getByRole('row', { name: /at most 10 %.*400 %.*✕ broken/ }).waitFor();
    await page
      .getByRole('alert')
      .getByText('Row count changed by 400 %; the contract allows 10 %.')
      .waitFor();

    await act('Publish anyway', 'more customers since the merger');
    await seeState('published');
    expect(await shownRun('churn')).to.deep.equal(['2026-11']);
    await page.getByRole('cell', { name: 'more customers since the merger' }).first().waitFor();

    await page.getByRole('link', { name: 'Overview' }).click();
    await page.getByRole('link', { name: /^churn 2026-10: superseded/ }).click();
    await act('Publish this run', 'the merger was called off');
    await seeState('published');
    expect(await shownRun('churn')).to.deep.equal(['2026-10']);
    expect(complaints).to.deep.equal([]);
  });

  it('publishes a run that breaks a gate once more, after readers saw another one', async () => {
    await signIn('#/runs/churn/2026-11');
    await seeState('superseded');
    await act('Publish anyway', 'the merger takes place after all');
    await seeState('published');
    expect(await shownRun('churn')).to.deep.equal(['2026-11']);
    expect(complaints).to.deep.equal([]);
  });

  it('says that files of a run are stalled, and what to do', async () => {
    await declare(system, 'stuck', '2026-10', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    await system.query(`UPDATE ingest.upload SET last_progress_at = now() - interval '11 minutes'
      WHERE model = 'stuck'`);
    await signIn();
    const line = page.getByRole('region', { name: 'Stalled' }).getByRole('listitem');
    await line.getByText('Stalled files: 1 of 1.').waitFor();
    expect(await line.textContent()).to.match(/stuck\s+2026-10.*11 min ago.*tester/s);
    await page.goto(`${system.url}/#/runs/stuck/2026-10`);
    await page.getByRole('alert').getByText('push the run again: only the missing bytes are sent').waitFor();
    await page.getByRole('button', { name: 'Stalled 1', pressed: true }).waitFor();
    expect(complaints).to.deep.equal([]);
  });

  it('offers first what helps: the rejected lines of wrong data, the publication of a held run', async () => {
    await signIn('#/runs/fraud/2026-10');
    await seeState('failed');
    const first = page.locator('.title .primary');
    expect(await first.allTextContents()).to.deep.equal(['Download rejected lines']);
    const [download] = await Promise.all([page.waitForEvent('download'), first.click()]);
    expect(await readFile(await download.path(), 'utf8')).to.include('"code":"invalid_score"');
    await page.getByRole('button', { name: 'Load again' }).waitFor();
    await load('gated', '2026-09', 100);
    await system.request('PUT', '/v1/models/gated', {
      token,
      json: { maxRowChangePercent: 10, owner: 'Ana Souza', contact: 'https://chat.example/scores' },
    });
    await load('gated', '2026-10', 500);
    await page.goto(`${system.url}/#/runs/gated/2026-10`);
    await seeState('held');
    expect(await first.allTextContents()).to.deep.equal(['Publish anyway']);
    const banner = page.getByRole('alert');
    await banner.getByText('Ana Souza').waitFor();
    expect(await banner.getByRole('link').getAttribute('href')).to.equal('https://chat.example/scores');
    expect(complaints).to.deep.equal([]);
  });

  it('says which models are overdue: in what needs you, in the grid, and on their pages', async () => {
    await load('monthly', '2026-05', 50);
    await load('monthly', '2026-06', 60);
    const contract = {
      expectEvery: '1 month',
      expectGrace: '3 days',
      minRows: 5,
      owner: 'Ana <b>',
      contact: 'javascript:alert(1)',
      attributes: [
        { name: 'decile', type: 'integer', min: 1, max: 10 },
        { name: 'segment', type: 'string', required: true, enum: ['<b>', 'B'] },
        { name: 'vip', type: 'boolean' },
      ],
    };
    await system.request('PUT', '/v1/models/monthly', { token, json: contract });
    await signIn();
    const line = page.getByRole('region', { name: 'Overdue' }).getByRole('listitem');
    await line.getByText('No run as of 1 Jul 2026 or later. Readers see 2026-06.').waitFor();
    expect(await line.textContent()).to.match(/\d+ d ago\s+Ana <b>, javascript:alert\(1\)/);
    await page.getByRole('link', { name: 'monthly: overdue' }).first().click();
    await page.getByRole('heading', { name: 'monthly' }).waitFor();
    const alert = page.getByRole('alert');
    await alert.getByText(/^The next run has been overdue for \d+ d$/).waitFor();
    await alert.getByText('No later run has been declared').waitFor();
    const facts = page.getByRole('region', { name: 'Facts' });
    expect(await facts.textContent()).to.match(/every month, 3 days of grace.*4 Jul 2026, 00:00 UTC/s);
    expect(await facts.getByRole('link').allTextContents()).to.deep.equal(['2026-06']);
    await page.getByRole('row', { name: 'Rows at least 5' }).waitFor();
    for (const row of [
      'decile integer no at least 1; at most 10',
      'segment string yes one of <b>, B',
      'vip boolean no any',
    ])
      await page
        .getByRole('region', { name: 'Declared attributes' })
        .getByRole('row', { name: row })
        .waitFor();
    await page.getByRole('img', { name: 'Rows of 2 runs; the newest: 60.' }).waitFor();
    for (const name of ['Mean score', 'Deciles of the scores', 'Bytes'])
      await page.getByRole('img', { name: new RegExp(`^${name} of 2 runs`) }).waitFor();
    const runs = page.getByRole('region', { name: 'Runs: 2' }).first().getByRole('row');
    expect((await runs.allTextContents()).slice(1).join()).to.match(
      /1 Jun 2026.*published.*60.*1 May 2026.*superseded.*50/s,
    );
    await load('monthly', '2026-07', 70);
    await page.getByRole('heading', { name: 'Runs: 3' }).waitFor(); // without being reloaded
    await system.request('PUT', '/v1/models/monthly', { token, json: {} });
    expect(complaints).to.deep.equal([]);
  });

  it('shows dates as dates, and times in UTC with the own time zone in the tooltip', async () => {
    await page.close();
    page = await (browser as Browser).newPage({ timezoneId: 'America/Sao_Paulo' });
    await signIn('#/runs/fraud/2026-10');
    await page.getByText('1 Oct 2026', { exact: true }).waitFor();
    const declared = page.locator('.timeline time').first();
    expect(await declared.textContent()).to.match(/^\d{1,2} [A-Z][a-z]{2} \d{4}, \d\d:\d\d:\d\d UTC$/);
    expect(await declared.getAttribute('title')).to.match(/GMT-03:00 \(America\/Sao_Paulo\)$/);
  });

  it('loads a failed run again, and withdraws it, each with a reason that is kept', async () => {
    await pushRun(system, 'fixed', '2026-10', [{ name: 'a.jsonl', content: '{"pk":"1","score":""}\n' }]);
    await untilFinal(system, 'fixed', '2026-10', PATIENCE_MS);
    await signIn('#/runs/fixed/2026-10');
    await seeState('failed');
    await act('Load again', 'the disk was full');
    await page.getByRole('row', { name: /load requested.*the disk was full/ }).waitFor();
    const loads = page.getByRole('region', { name: 'Load attempts' }).getByRole('row');
    await loads.nth(2).waitFor(); // heading, second try, first try
    await seeState('failed');

    await act('Withdraw', 'the wrong month');
    await seeState('cancelled');
    await page.getByRole('row', { name: /withdraw.*the wrong month/ }).waitFor();
    expect((await getRun(system, 'fixed', '2026-10')).state).to.equal('cancelled');
    expect(await page.getByRole('button', { name: 'Withdraw' }).count()).to.equal(0);
    expect(complaints).to.deep.equal([]);
  });

  for (const [button, state] of [
    ['Load again', 'failed'],
    ['Withdraw', 'cancelled'],
  ] as const)
    it(`does “${button}” to the revision that the dialog is about, although a newer one was pushed meanwhile`, async () => {
      const model = `meanwhile_${state}`;
      await pushRun(system, model, '2026-10', [{ name: 'a.jsonl', content: '{"pk":"1","score":""}\n' }]);
      await untilFinal(system, model, '2026-10', PATIENCE_MS);
      await signIn(`#/runs/${model}/2026-10`);
      await seeState('failed');
      await page.getByRole('button', { name: button }).click();
      await pushRun(system, model, '2026-10', [{ name: 'a.jsonl', content: '{"pk":"1","score":1}\n' }]);
      await untilFinal(system, model, '2026-10', PATIENCE_MS);
      const dialog = page.getByRole('dialog');
      await dialog.getByLabel('Reason').fill('the wrong month');
      await dialog.getByRole('button', { name: button }).click();
      await dialog.waitFor({ state: 'detached' });
      const states = async () => {
        const rows = await system.query<{ at: string }>(
          `SELECT revision || ' ' || state AS at FROM ingest.run_revision WHERE model = '${model}' ORDER BY revision`,
        );
        return rows.map(({ at }) => at).join(', ');
      };
      await eventually(states, (found) => found === `1 ${state}, 2 published`);
      const [audit] = await system.query(
        `SELECT revision FROM ingest.audit_event WHERE model = '${model}' AND detail ->> 'reason' = 'the wrong month'`,
      );
      expect(audit).to.deep.equal({ revision: 1 });
    });

  it('shows markup that a client sends as the text it is, in every field, and runs none of it', async () => {
    const evil = (field: string) => `<img src=x onerror=alert('${field}')><script>alert('${field}')</script>`;
    const name = "<img src=x onerror=alert('file')>.jsonl"; // a file's name has no slash
    const fields = ['host', 'user'];
    const airflow = ['dag_id', 'task_id', 'run_id', 'try_number'];
    const source = {
      ...Object.fromEntries(fields.map((field) => [field, evil(field)])),
      airflow: Object.fromEntries(airflow.map((field) => [field, evil(field)])),
    };
    const run = "<b onclick=alert('run')>r";
    const files = [{ name, content: `{"pk":"1","score":"${evil('excerpt')}"}\n` }];
    const evilToken = "<script>alert('token')</script>";
    await pushRun(system, 'evil', run, files, { source });
    await untilFinal(system, 'evil', run, PATIENCE_MS);
    // No client can choose these; the page must not rely on that.
    await system.query(`UPDATE ingest.run_revision SET declared_by = $1 WHERE model = 'evil'`, [evilToken]);
    await system.query(
      `UPDATE ingest.load_attempt SET worker = $1, error = $1 WHERE revision_id IN
      (SELECT revision_id FROM ingest.run_revision WHERE model = 'evil')`,
      [evil('worker')],
    );
    const dialogs: string[] = [];
    page.on('dialog', (dialog) => {
      dialogs.push(dialog.message());
      void dialog.dismiss();
    });
    await signIn();
    await page.getByRole('link', { name: `evil ${run}: failed` }).click();
    await seeState('failed');
    await act('Load again', evil('reason'));
    await untilFinal(system, 'evil', run, PATIENCE_MS);
    await page.getByRole('row', { name: /load requested/ }).waitFor();
    await page.locator('.excerpt', { hasText: '<script>' }).waitFor();
    const text = (await page.locator('#app').textContent()) ?? '';
    for (const field of [...fields, ...airflow, 'reason', 'worker'])
      expect(text, field).to.include(evil(field));
    for (const shown of [name, run, evilToken, "<img src=x onerror=alert('excerpt')>"])
      expect(text).to.include(shown);
    expect(await page.locator('#app [src=x], #app script, #app b').count()).to.equal(0);
    expect(await page.title()).to.include(run);
    expect(dialogs).to.deep.equal([]);
    expect(complaints).to.deep.equal([]);
  });

  it('offers no act to a token that may only read', async () => {
    const reader = await system.createToken({ name: 'reader', scopes: ['read'] });
    await page.goto(`${system.url}/#/runs/fraud/2026-10`);
    await page.getByLabel('Token').fill(reader);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('a token that has the scope').waitFor();
    expect(await page.getByRole('button', { name: 'Load again' }).count()).to.equal(0);
  });

  it('asks every few seconds where no stream of events comes through', async () => {
    await page.route('**/v1/events', (route) => route.fulfill({ status: 502 }));
    await signIn();
    await page.getByText('Updated every 5 s').waitFor();
    await declare(system, 'polled', '2026-10', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    await page.getByRole('link', { name: /^polled 2026-10: receiving/ }).waitFor();
  });

  it('refuses a change by cookie that another site has made the browser send', async () => {
    await signIn();
    const [cookie] = await page.context().cookies();
    expect(cookie).to.include({ name: 'ingest_session', httpOnly: true, sameSite: 'Strict' });
    expect(cookie?.value).not.to.equal(token);
    const headers = { cookie: `ingest_session=${cookie?.value}`, origin: 'http://elsewhere.example' };
    const request = { token: null, headers, json: { reason: 'none' } };
    const answer = await system.request('POST', '/v1/models/fraud/runs/2026-10/retry', request);
    expect(answer.status).to.equal(403);
  });

  it('has 80 models of two years on one screen: folded, filtered, in natural order, and nothing to scroll sideways', async () => {
    await recordHistory(system);
    const contract = { expectEvery: '1 month', expectGrace: '10 days', owner: 'Ana Souza' };
    await system.query(`UPDATE ingest.model SET contract = $1 WHERE name LIKE 'cards%'`, [contract]);
    await signIn();
    const fold = page.getByRole('button', { name: /Need nobody/ });
    await fold.waitFor();
    const names = () => page.locator('.grid tbody th[scope=row]').allTextContents();
    expect((await names()).length).to.be.below(15);
    await fold.click();
    const all = await names();
    expect(all.length).to.be.above(80);
    expect(all.filter((name) => name.startsWith('broker_cross'))).to.deep.equal([
      'broker_cross_sell_2',
      'broker_cross_sell_10',
    ]);
    expect(await page.locator('.grid .mark[data-shown]').count()).to.be.above(70);
    await page.keyboard.press('/');
    await page.keyboard.type('ana cross');
    await eventually(names, (found) => found.join() === 'cards_cross_sell_2,cards_cross_sell_10');
    await page.getByText('Models found: 2').waitFor({ state: 'attached' });
    await page.getByLabel('Filter models').fill('');
    await page
      .getByRole('group', { name: 'Which models' })
      .getByRole('button', { name: /overdue/ })
      .click();
    await eventually(names, (found) => found.join() === 'cards_cross_sell_2');
    await page.getByRole('button', { name: /^all/ }).click();

    const scrolls = `[...document.querySelectorAll('html, .scroll')].some((it) => it.scrollWidth > it.clientWidth)`;
    const months: number[] = [];
    for (const width of [320, 390, 768, 1024, 1280, 1366, 1920, 2560]) {
      await page.setViewportSize({ width, height: 900 });
      await eventually(
        () => page.evaluate<boolean>(scrolls),
        (isScrolling) => !isScrolling,
      ).catch((error: Error) => {
        throw new Error(`${width} pixels: ${error.message}`);
      });
      const rows = await page
        .locator('.grid tbody tr:not(.group)')
        .evaluateAll((found) =>
          found.map((row) => (row as unknown as { clientHeight: number }).clientHeight),
        );
      expect(Math.max(...rows), `height of a line at ${width} pixels`).to.be.below(32);
      months.push(await page.locator('.grid .month').count());
    }
    expect(months[0]).to.be.within(4, 12);
    expect(months.at(-1)).to.be.at.least(24);
    expect(complaints).to.deep.equal([]);
  });

  it('has nothing to scroll sideways on the pages of a model and a run with the longest names', async () => {
    const [model, run] = [`m${'_long'.repeat(9)}_x`, `manual__2026-11-01T00:00:00+00:00_${'x'.repeat(160)}`];
    await pushRun(system, model, run, [{ name: 'a.jsonl', content: scoreLines(50) }]);
    await signIn();
    const scrolls = 'document.documentElement.scrollWidth > document.documentElement.clientWidth';
    for (const address of [`#/runs/${model}/${encodeURIComponent(run)}`, `#/models/${model}`]) {
      await page.goto(`${system.url}/${address}`);
      await page.getByRole('heading', { name: model }).waitFor();
      for (const width of [320, 390, 1280]) {
        await page.setViewportSize({ width, height: 900 });
        await eventually(
          () => page.evaluate<boolean>(scrolls),
          (isScrolling) => !isScrolling,
        ).catch((error: Error) => {
          throw new Error(`${address} at ${width} pixels: ${error.message}`);
        });
      }
    }
    expect(complaints).to.deep.equal([]);
  });

  for (const colorScheme of ['light', 'dark'] as const) {
    it(`has no serious fault of accessibility, when it is ${colorScheme}`, async () => {
      await page.emulateMedia({ colorScheme });
      await page.goto(system.url);
      await page.getByLabel('Token').waitFor();
      expect(await seriousFaults(), 'sign-in').to.deep.equal([]);
      await signIn();
      await page.getByRole('heading', { name: 'Runs by model and month' }).waitFor();
      expect(await seriousFaults(), 'overview').to.deep.equal([]);
      const pages = colorScheme === 'light' ? ['runs/fraud/2026-10'] : ['runs/churn/2026-11'];
      for (const shown of [...pages, 'models/churn']) {
        await page.goto(`${system.url}/#/${shown}`);
        await page.getByRole('heading', { name: /^(Audit log|Runs: )/ }).waitFor();
        expect(await seriousFaults(), shown).to.deep.equal([]);
      }
    });
  }

  it('works by keyboard alone', async () => {
    await page.goto(system.url);
    await page.getByLabel('Token').waitFor();
    await page.keyboard.type(token);
    await page.keyboard.press('Enter');
    await page
      .getByRole('link', { name: /^fraud 2026-10/ })
      .first()
      .focus();
    await page.keyboard.press('Enter');
    await seeState('failed');
    await page.getByRole('button', { name: 'Load again' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
  });
});
