import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { holdBackend } from './support/hold-backend.ts';
import {
  declare,
  patch,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const run = promisify(execFile);
const DOCS = new URL('../../../docs/', import.meta.url);
const PATIENCE_MS = 60_000;

/** The document's own lines, run by a shell as an operator would: nothing of them is written here again. */
describe('the commands of docs/operations.md and docs/api.md', function () {
  this.timeout(3 * PATIENCE_MS);
  let system: TestSystem;
  let operator: string;
  let blocks: string[];
  let workDir: string;
  let letGo = () => {};

  before(async function () {
    for (const tool of ['bash', 'curl', 'jq']) {
      if (await run(tool, ['--version']).catch(() => undefined)) continue;
      console.log(`    No ${tool} here: the commands of the documents are not run.`);
      this.skip();
    }
    blocks = await blocksOf('operations.md');
    workDir = await mkdtemp(join(tmpdir(), 'operations-doc-'));
    system = await startSystem();
    operator = await system.createToken({ name: 'night-shift', scopes: ['read', 'operate'] });
    system.startLoader();
    await published('2026-10', 100);
    await published('2026-11', 110);
  });

  after(async () => {
    letGo();
    await system?.stop();
    if (workDir) await rm(workDir, { recursive: true });
  });

  async function blocksOf(document: string): Promise<string[]> {
    const text = await readFile(new URL(document, DOCS), 'utf8');
    return [...text.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block = '']) => block);
  }

  function inShell(script: string, token = operator) {
    return run('bash', ['-euo', 'pipefail', '-c', script], {
      cwd: workDir,
      env: {
        ...process.env,
        UPLOADER_URL: system.url,
        UPLOADER_TOKEN: token,
        DATABASE_URL: system.databaseUrl,
        INGEST_STORE: system.dataDir,
        log: join(workDir, 'service.log'),
      },
      timeout: PATIENCE_MS,
    });
  }

  async function published(month: string, rows: number): Promise<void> {
    await pushRun(system, 'churn', month, [{ name: 'a.jsonl', content: scoreLines(rows) }], {
      as_of: `${month}-01T00:00:00Z`,
      source: { host: 'airflow-worker-3', airflow: { dag_id: 'score_churn', try_number: '2' } },
    });
    await untilFinal(system, 'churn', month, PATIENCE_MS);
  }

  /** What is below `# Question` in the document, after the lines that the document begins with. */
  async function answerTo(question: string, about = 'churn/runs/2026-11') {
    const block = blocks.find((text) => text.includes(`# ${question}`)) ?? '';
    const command = block.split(`# ${question}`)[1]?.split('\n')[1] ?? '';
    expect(command, `docs/operations.md has no command for "${question}"`).to.not.equal('');
    const functions = block.split('\n').filter((line) => /^\w+\(\) \{/.test(line));
    const script = [blocks[0], ...functions, `run=/v1/models/${about}`, command].join('\n');
    const { stdout } = await inShell(script);
    return JSON.parse(stdout);
  }

  it('run as they are, each in a shell that has only the first lines of the document', async function () {
    if (!(await run('psql', ['--version']).catch(() => undefined))) this.skip();
    const fault = { level: 50, requestId: 'b48eea2e-a0cf-4e37-8b4b-61e0bdf2c696', msg: 'a fault' };
    await writeFile(join(workDir, 'service.log'), `not of the service\n${JSON.stringify(fault)}\n`);
    const [first = '', ...others] = blocks;
    // The acts have tests of their own, and containers are tried where there is Docker.
    const commands = others.filter((block) => !/act POST|\$compose|docker compose/.test(block));
    expect(commands.length).to.be.at.least(10);
    for (const command of commands) {
      const { stdout, stderr } = await inShell(`${first}\n${command}`);
      expect(stderr, command).to.equal('');
      if (command.includes('"$log"')) expect(stdout, command).to.equal(`${JSON.stringify(fault)}\n`);
      if (command.includes('comm -13')) expect(stdout, command).to.equal('');
    }
  });

  it('of docs/api.md run one after the other', async () => {
    const [, ...examples] = await blocksOf('api.md');
    const auth = 'auth="Authorization: Bearer $UPLOADER_TOKEN"';
    const token = await system.createToken({ name: 'client', scopes: ['push', 'read', 'operate'] });
    const { stdout } = await inShell([auth, ...examples].join('\n'), token);
    const statuses = [...stdout.matchAll(/HTTP\/1.1 (\d+)/g)].map(([, status]) => Number(status));
    expect(statuses).to.deep.equal([200, 204, 204, 201]);
    await untilFinal(system, 'demo', 'plain-1', PATIENCE_MS);
  });

  it('answer ten questions', () => {
    const questions = blocks.flatMap((block) => block.match(/^# .*\?$/gm) ?? []);
    expect(questions).to.have.length(10);
  });

  it('name only fields that an answer of the API has', async () => {
    const document: unknown = await (await system.request('GET', '/openapi.json')).json();
    const known = new Set(propertiesIn(document));
    const filters = blocks.flatMap((block) =>
      [...block.matchAll(/\bask .*?\| jq (?:-\w+ )*('[^']*'|\.\S*)/g)].map(([, filter = '']) => filter),
    );
    expect(filters.length).to.be.above(12);
    for (const filter of filters) {
      // `.name`, and `{name, …}` without a colon; a name before a colon is the reader's own.
      const names = [...filter.matchAll(/\.([a-z_]\w*)|(?<=[{,]\s*)([a-z_]\w*)(?=\s*[,}])/gi)];
      for (const [, path, short] of names) expect(known, filter).to.include(path ?? short);
    }
  });

  it('say whether a run is in, who sent it, and what may be done', async () => {
    expect(await answerTo('Is run X in?')).to.deep.equal({
      state: 'published',
      rows: 110,
      publishedRevision: 1,
    });
    expect(await answerTo('Who sent it?')).to.deep.equal({
      pushedBy: 'tester',
      source: { host: 'airflow-worker-3', airflow: { dag_id: 'score_churn', try_number: '2' } },
    });
    expect(await answerTo('What may I do?', 'churn/runs/2026-10')).to.include('publish');
  });

  it('say what changed against the month before', async () => {
    const changed = await answerTo('What changed against last month?');
    expect(changed).to.deep.include({ rows: [100, 110], mean: [50.5, 55.5] });
  });

  it('say which file is stuck, whether there is disk, and what waits for whom', async () => {
    const content = scoreLines(50);
    const files = [
      { name: 'a.jsonl', content },
      { name: 'b.jsonl', content: scoreLines(5) },
    ];
    const declared = await declare(system, 'uplift', '2026-11', files);
    await patch(system, declared.missing.files[0]?.uploadUrl ?? '', 0, Buffer.from(content).subarray(0, 500));
    await system.query(`UPDATE ingest.upload SET last_progress_at = now() - interval '1 hour'
      WHERE offset_bytes = 500`);
    const stuck = await answerTo('Which file is stuck?', 'uplift/runs/2026-11');
    expect(stuck).to.include({ name: 'a.jsonl', offset: 500, bytes: content.length });
    expect((await answerTo('Is there disk?')).largestUploadBytes).to.be.above(0);
    const waiting = await answerTo('Does anything wait, and for whom?');
    expect(waiting.needsAttention).to.deep.include({ model: 'uplift', run: '2026-11', state: 'receiving' });
    expect(waiting.receiving).to.include({ runs: 1, files: 2, stalledFiles: 1 });
  });

  it('say why a run was rejected; load it again, and withdraw it', async () => {
    const bad = '{"pk":"1","score":"high"}\n';
    await pushRun(system, 'fraud', '2026-11', [{ name: 'a.jsonl', content: bad }]);
    await untilFinal(system, 'fraud', '2026-11', PATIENCE_MS);
    const why = await answerTo('Why was it rejected?', 'fraud/runs/2026-11');
    expect(why.error.detail).to.include('score must be a finite number');
    expect(why.rejected).to.deep.equal({ invalid_score: 1 });
    expect(why.lines[0]).to.include({ file: 'a.jsonl', line: 1, excerpt: bad.trim() });

    expect((await answerTo('Load it again', 'fraud/runs/2026-11')).state).to.be.oneOf(['queued', 'loading']);
    await untilFinal(system, 'fraud', '2026-11', PATIENCE_MS);
    expect((await answerTo('Withdraw it', 'fraud/runs/2026-11')).state).to.equal('cancelled');
  });

  it('say how far a load is, and when it will end', async () => {
    await pushRun(system, 'slow', '2026-11', [{ name: 'a.jsonl', content: scoreLines(400_000) }]);
    letGo = await holdBackend(system, 'pg_stat_progress_copy', 'bytes_processed > 0'); // there is time to ask
    const far = await answerTo('How far is the load?', 'slow/runs/2026-11');
    expect(far).to.include({ state: 'loading', attempt: 1, phase: 'copying' });
    expect(far.progress.totalBytes).to.equal(scoreLines(400_000).length);
    const end = await answerTo('When will it end?', 'slow/runs/2026-11');
    expect(end).to.include({ step: 'copying', loadEtaSeconds: null }); // the model's first load
    expect(end).to.have.property('etaSeconds');
    letGo();
    await untilFinal(system, 'slow', '2026-11', PATIENCE_MS);
  });

  it('roll back', async () => {
    const model = await answerTo('Roll back, or publish what is held (then with "force":true)');
    expect(model.current).to.include({ run: '2026-10' });
  });
});

/** The names of the fields of every schema in an OpenAPI document. */
function propertiesIn(node: unknown): string[] {
  if (typeof node !== 'object' || node === null) return [];
  const { properties = {} } = node as { properties?: object };
  return [...Object.keys(properties), ...Object.values(node).flatMap(propertiesIn)];
}
