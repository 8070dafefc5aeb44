import { spawn, spawnSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { expect } from 'chai';
import fc from 'fast-check';
import pg from 'pg';
import {
  declare,
  eventually,
  patch,
  pushRun,
  runPath,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

interface DatedRun {
  readonly run: string;
  readonly asOf: string | undefined;
  readonly rows: number;
}

/** Run keys that state their date in each of the forms, and some that do not, whose date is given. */
const datedRun = fc
  .record({
    month: fc.integer({ min: 1, max: 12 }),
    day: fc.integer({ min: 1, max: 28 }),
    form: fc.integer({ min: 0, max: 5 }),
    part: fc.integer({ min: 1, max: 30 }),
    rows: fc.integer({ min: 1, max: 400 }),
  })
  .map(({ month, day, form, part, rows }): DatedRun & { date: string } => {
    const mm = String(month).padStart(2, '0');
    const dd = String(day).padStart(2, '0');
    const date = `2025-${mm}-${form === 0 ? '01' : dd}`;
    const keys = [
      `2025-${mm}`,
      `2025-${mm}-${dd}`,
      `dt=2025-${mm}-${dd} part ${part}`,
      `scheduled__2025-${mm}-${dd}T00:00:00+00:00`,
      `2025${mm}${dd}`,
      `part ${part}`,
    ];
    const run = keys[form] ?? '';
    return { run, date, rows, asOf: form === 5 ? `${date}T00:00:00Z` : undefined };
  });

describe('the run that is shown', () => {
  let system: TestSystem;
  let models = 0;
  before(async () => {
    system = await startSystem();
    for (let loader = 0; loader < 3; loader += 1) system.startLoader({ pollIntervalMs: 50 });
  });
  after(() => system.stop());

  const content = (run: string, rows: number) =>
    Array.from({ length: rows }, (_, key) => `{"pk":"${run} ${key}","score":1}\n`).join('');
  const push = (model: string, { run, rows, asOf }: DatedRun) =>
    pushRun(
      system,
      model,
      run,
      [{ name: 'a.jsonl', content: content(run, rows) }],
      asOf === undefined ? {} : { as_of: asOf },
    );
  async function shown(model: string): Promise<{ run: string; rows: number } | undefined> {
    const rows = await system.query<{ run: string; rows: number }>(
      `SELECT run, count(*)::int AS rows FROM scores."${model}" GROUP BY run`,
    );
    expect(rows.length).to.be.at.most(1);
    return rows[0];
  }

  it('is the latest of any set of dated runs, declared in any order, at any concurrency, with any sizes', async () => {
    const seed = process.env.TEST_SEED ? Number(process.env.TEST_SEED) : Math.floor(Math.random() * 2 ** 31);
    console.log(`      seed ${seed} (again: TEST_SEED=${seed})`);
    const sets = fc.uniqueArray(datedRun, { minLength: 2, maxLength: 7, selector: ({ run }) => run });
    await fc.assert(
      fc.asyncProperty(sets, fc.integer({ min: 1, max: 7 }), async (runs, atOnce) => {
        models += 1;
        const model = `any_${models}`;
        const left = [...runs];
        await Promise.all(
          Array.from({ length: atOnce }, async () => {
            for (let next = left.shift(); next !== undefined; next = left.shift()) await push(model, next);
          }),
        );
        for (const { run } of runs)
          expect((await untilFinal(system, model, run)).state, run).to.be.oneOf(['published', 'superseded']);
        const order = new Intl.Collator('en', { numeric: true });
        const latest = [...runs]
          .sort((a, b) => a.date.localeCompare(b.date) || order.compare(a.run, b.run))
          .at(-1);
        expect(await shown(model)).to.deep.equal({ run: latest?.run, rows: latest?.rows });
      }),
      { seed, numRuns: 10, interruptAfterTimeLimit: 20_000, endOnFailure: true },
    );
  });

  it('is 2025-12 after the first push of a folder of twelve months of twelve sizes, all at once', async () => {
    const months = Array.from({ length: 12 }, (_, index) => ({
      run: `2025-${String(index + 1).padStart(2, '0')}`,
      rows: 1_200 - index * 100,
      asOf: undefined,
    }));
    await Promise.all(months.map((month) => push('months', month)));
    for (const { run } of months) await untilFinal(system, 'months', run);
    expect(await shown('months')).to.deep.equal({ run: '2025-12', rows: 100 });
  });

  it('is the undated one that was pushed last, also when its key was pushed before', async () => {
    const undated = async (run: string, rows: number) => {
      await push('undated', { run, rows, asOf: undefined });
      await untilFinal(system, 'undated', run);
      return (await shown('undated'))?.run;
    };
    expect(await undated('latest', 1)).to.equal('latest');
    expect(await undated('other', 1)).to.equal('other');
    expect(await undated('latest', 2), 'other content under the same key').to.equal('latest');
  });

  it('does not depend on the clock of the service, nor on when its bytes arrived', async () => {
    const now = Date.now;
    const offBy = async (days: number, act: () => Promise<unknown>) => {
      Date.now = () => now() + days * 24 * 60 * 60 * 1000;
      await act().finally(() => {
        Date.now = now;
      });
    };
    const today = new Date().toISOString();
    await offBy(400, () => push('clock', { run: 'ahead', rows: 1, asOf: undefined }));
    await untilFinal(system, 'clock', 'ahead');
    await offBy(-400, () => push('behind', { run: 'today', rows: 1, asOf: today }));
    expect((await untilFinal(system, 'behind', 'today')).state).to.equal('published');
    const file = { name: 'a.jsonl', content: content('slow', 1) };
    const slow = await declare(system, 'clock', 'slow', [file]);
    await push('clock', { run: 'fast', rows: 1, asOf: undefined });
    await untilFinal(system, 'clock', 'fast');
    expect((await shown('clock'))?.run).to.equal('fast');
    await patch(system, slow.missing.files[0]?.uploadUrl ?? '', 0, Buffer.from(file.content));
    expect((await untilFinal(system, 'clock', 'slow')).state).to.equal('superseded');
    const [row] = await system.query<{ ahead: boolean }>(
      `SELECT bool_or(as_of > now()) AS ahead FROM ingest.run_revision WHERE model = 'clock'`,
    );
    expect(row).to.deep.equal({ ahead: false });
  });

  it('is announced on scores_published, by a load and by hand, with the line of scores_info.models', async () => {
    const listener = new pg.Client({ connectionString: system.databaseUrl });
    await listener.connect();
    const heard: string[] = [];
    listener.on('notification', ({ payload }) => heard.push(payload ?? ''));
    await listener.query('LISTEN scores_published');
    const announced = async () => {
      const [line] = await system.query<{ line: unknown }>(
        `SELECT to_json(m) AS line FROM scores_info.models m WHERE model = 'heard'`,
      );
      return JSON.stringify(line?.line);
    };
    const lines: string[] = [];
    for (const [run, rows] of [
      ['2025-01', 3],
      ['2025-02', 4],
      ['2024-12', 5],
    ] as const) {
      await push('heard', { run, rows, asOf: undefined });
      await untilFinal(system, 'heard', run);
      if (run !== '2024-12') lines.push(await announced());
    }
    const operator = await system.createToken({ name: 'operator', scopes: ['operate'] });
    const json = { run: '2025-01', reason: 'test' };
    await system.request('PUT', '/v1/models/heard/current', { json, token: operator });
    lines.push(await announced());
    await system.request('PUT', '/v1/models/heard/current', { json, token: operator }); // changes nothing
    await eventually(
      async () => heard.filter((text) => text.includes('"heard"')),
      (found) => found.length >= 3,
    );
    const found = heard.filter((text) => text.includes('"heard"')).map((text) => JSON.parse(text));
    expect(found.map(({ run, rows }) => `${run} ${rows}`)).to.deep.equal([
      '2025-01 3',
      '2025-02 4',
      '2025-01 3',
    ]);
    expect(found.map((line) => Date.parse(line.published_at))).to.deep.equal(
      lines.map((line) => Date.parse(JSON.parse(line).published_at)),
    );
    expect(Object.keys(found[0])).to.deep.equal(['model', 'run', 'as_of', 'published_at', 'rows']);
    await listener.end();
  });

  it('is followed by the programs of docs/reading-scores.md', async () => {
    const text = await readFile(new URL('../../../docs/reading-scores.md', import.meta.url), 'utf8');
    const python = process.env.PYTHON ?? 'python3'; // with psycopg 3, or the Python program is not run
    const hasPsycopg = spawnSync(python, ['-c', 'import psycopg']).status === 0;
    const program = (language: string) =>
      new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, 's').exec(text)?.[1]?.replaceAll('churn', 'followed') ??
      '';
    const commands: [string, string[]][] = [
      [process.execPath, ['--input-type=module', '--eval', program('js')]],
      ...(hasPsycopg ? ([[python, ['-u', '-c', program('python')]]] as [string, string[]][]) : []),
    ];
    const followers = commands.map(([command, args]) => {
      const follower = {
        said: '',
        child: spawn(command, args, {
          cwd: import.meta.dirname,
          env: { ...process.env, DATABASE_URL: system.databaseUrl },
        }),
      };
      for (const stream of [follower.child.stdout, follower.child.stderr])
        stream.on('data', (data) => {
          follower.said += data;
        });
      return follower;
    });
    try {
      for (const [run, rows] of [
        ['2025-01', 1],
        ['2025-02', 2],
      ] as const) {
        await push('followed', { run, rows, asOf: undefined });
        await untilFinal(system, 'followed', run);
        for (const follower of followers)
          await eventually(
            async () => follower.said,
            (said) => said.includes(`followed shows ${run}`),
            30_000,
          );
      }
    } finally {
      for (const { child } of followers) child.kill('SIGKILL');
    }
  });

  it('is never one whose date is more than a year ahead, or outside years 1 to 9999', async () => {
    const file = [{ name: 'a.jsonl', content: content('x', 1) }];
    const inYears = new Date(Date.now() + 370 * 24 * 60 * 60 * 1000).toISOString();
    for (const [run, more] of [
      ['r', { as_of: inYears }],
      ['r', { as_of: '9999-12-31T23:59:59Z' }],
      ['r', { as_of: '0000-12-31T00:00:00Z' }],
      ['r', { as_of: '9999-12-31T23:59:59-10:00' }],
      [inYears.slice(0, 10), {}],
      ['99991231', {}],
    ] as const) {
      const refused = await declare(system, 'dates', run, file, more).catch((error: Error) => error.message);
      expect(refused, `${run} ${JSON.stringify(more)}`).to.match(/^PUT answered 400/);
    }
    const answer = await system.request('GET', runPath('dates', 'r'));
    expect(answer.status).to.equal(404);
  });
});
