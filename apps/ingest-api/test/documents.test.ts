import { readFile, writeFile } from 'node:fs/promises';
import { expect } from 'chai';
import { contract, ERROR_CODES, type ErrorCode, isRetryable, RUN_ERROR_CODES, RUN_STATE } from 'wire';
import { EXIT_CODES } from '../src/commands/exit-codes.ts';
import { loadLoaderConfig, loadServeConfig } from '../src/config.ts';
import { TRANSITIONS } from '../src/runs/transitions.ts';
import { declare, patch, pushRun, startSystem, type TestSystem, untilFinal } from './support/system.ts';

const ROOT = new URL('../../../', import.meta.url);
/** UPDATE_DOCS=1 writes what differs, instead of failing. */
const UPDATES = process.env.UPDATE_DOCS === '1';

/** What repeats the program in docs/ and .env.example. Links, paths and commands: e2e/documents.test.ts. */
describe('the documents of the service', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  /** Compares the text between `<!-- generated: NAME -->` and `<!-- end of generated -->`. */
  async function expectGenerated(
    name: string,
    expected: string,
    document = 'docs/api.md',
    isSame = (kept: string) => kept === expected,
  ) {
    const file = new URL(document, ROOT);
    const text = await readFile(file, 'utf8');
    const begin = `<!-- generated: ${name} -->\n`;
    const start = text.indexOf(begin) + begin.length;
    const end = text.indexOf('<!-- end of generated -->', start);
    expect(start, `${document} has no "${name}"`).to.be.at.least(begin.length);
    const kept = text.slice(start, end).trim();
    if (isSame(kept)) return;
    if (!UPDATES) expect(kept, `${document}, ${name}; UPDATE_DOCS=1 writes it`).to.equal(expected);
    await writeFile(file, `${text.slice(0, start)}\n${expected}\n\n${text.slice(end)}`);
  }

  it('list every route of the OpenAPI document with its scope', async () => {
    const { paths } = (await (await system.request('GET', '/openapi.json')).json()) as {
      paths: Record<string, Record<string, { summary: string; 'x-scope'?: string }>>;
    };
    const rows = Object.entries(paths).flatMap(([path, operations]) =>
      Object.entries(operations).map(([method, operation]) => [
        `\`${method.toUpperCase()} ${path}\``,
        operation['x-scope'] ?? 'none',
        operation.summary,
      ]),
    );
    expect(rows).to.have.length.above(20);
    await expectGenerated('routes', tableOf(['verb, path', 'scope', 'does'], rows));
  });

  it('list every field of a contract', async () => {
    const rows = Object.entries(contract.shape).map(([field, { description = '' }]) => [
      `\`${field}\``,
      description,
    ]);
    await expectGenerated('contract', tableOf(['field', 'is'], rows));
  });

  it('list every state, and every transition', async () => {
    const architecture = await readFile(new URL('docs/architecture.md', ROOT), 'utf8');
    const states = [...architecture.matchAll(/^\| `(\w+)` +\| .* \| .* \|$/gm)].map(([, word = '']) => word);
    expect(states).to.include.members(RUN_STATE.options);
    const code = (words: readonly string[]) => words.map((word) => `\`${word}\``).join(', ');
    const rows = Object.values(TRANSITIONS).map(({ from, to, by, when }) => [
      code(from),
      code([to]),
      by,
      when,
    ]);
    await expectGenerated('transitions', tableOf(['from', 'to', 'by', 'when'], rows), 'docs/architecture.md');
  });

  it('list every code of a failed run, and what to do', async () => {
    const rows = Object.entries(RUN_ERROR_CODES).map(([name, { happened, toDo }]) => [
      `\`${name}\``,
      happened,
      toDo.join(' '),
    ]);
    await expectGenerated('failed runs', tableOf(['code', 'means', 'what to do'], rows), 'docs/errors.md');
  });

  it('list every exit code of ingest-api', async () => {
    await expectGenerated(
      'exit codes',
      tableOf(['exit', 'means'], Object.entries(EXIT_CODES)),
      'docs/errors.md',
    );
  });

  it('list every problem with its status', async () => {
    const rows = Object.entries(ERROR_CODES).map(([code, { status, title }]) => [
      `\`${code}\``,
      String(status),
      isRetryable(code as ErrorCode) ? 'yes' : 'no',
      title,
    ]);
    await expectGenerated('problems', tableOf(['code', 'status', 'retryable', 'title'], rows));
  });

  it('show answers as the service gives them', async () => {
    const content = '{ "pk": "1", "score": "12.5" }\n{ "pk": "2", "score": "90", "segment": "a" }\n';
    const run = await declare(system, 'demo', '2026-11', [{ name: 'scores.jsonl', content }], {
      as_of: '2026-11-01T00:00:00Z',
      source: { host: 'scheduler-1' },
    });
    await expectGenerated('run', block(run), 'docs/api.md', hasShapeOf(run));

    const uploadUrl = run.missing.files[0]?.uploadUrl ?? '';
    const refused = await patch(system, uploadUrl, 5, Buffer.from(content).subarray(5, 10));
    const problem = await refused.json();
    const example = `\`\`\`\nHTTP/1.1 ${refused.status} ${refused.statusText}\nContent-Type: ${refused.headers.get('content-type')}\n\`\`\`\n\n${block(problem)}`;
    const withoutId = (text: string) => text.replace(/"request_id": "[^"]*"/, '');
    await expectGenerated(
      'problem',
      example,
      'docs/api.md',
      (kept) => withoutId(kept) === withoutId(example),
    );

    const { needsAttention: _, ...status } = (await (await system.request('GET', '/v1/status')).json()) as {
      needsAttention: unknown;
    };
    await expectGenerated('status', block(status), 'docs/api.md', hasShapeOf(status));
  });

  it('show what is wrong with a failed run as the service says it', async () => {
    system.startLoader();
    const lines = ['{"pk":"1","score":"1"}', '{"pk":"2","score":"high"}', '{"pk":"3"}', ''];
    await pushRun(system, 'fraud', '2026-12', [{ name: 'scores.jsonl', content: lines.join('\n') }]);
    const { error, rejects, mayDo } = await untilFinal(system, 'fraud', '2026-12', 60_000);
    await expectGenerated('failed run', block({ error, rejects, mayDo }));
  });

  it('have the defaults of the programs in .env.example', async () => {
    const env = { DATABASE_URL: 'postgres://a:b@localhost/c', INGEST_DATA_DIR: '/var/lib/score-ingest' };
    const programs = { serve: loadServeConfig, load: loadLoaderConfig };
    const text = await readFile(new URL('.env.example', ROOT), 'utf8');
    const stated = statedVariables(text).filter(({ isExample }) => !isExample);
    expect(stated).to.have.length.above(20);
    for (const { name, value } of stated) {
      for (const [program, loadConfig] of Object.entries(programs))
        expect(loadConfig({ ...env, [name]: value }), `${name}=${value} (${program})`).to.deep.equal(
          loadConfig(env),
        );
    }
    // A variable of which the programs take any value without a difference is not theirs.
    for (const { name } of stated) {
      const faults = Object.values(programs).filter((loadConfig) => {
        try {
          return JSON.stringify(loadConfig({ ...env, [name]: '7' })) !== JSON.stringify(loadConfig(env));
        } catch {
          return true;
        }
      });
      expect(faults, `${name} changes nothing`).to.not.have.length(0);
    }
  });
});

/** The commented-out variables; those below a comment that ends in "Example:" have no default. */
function statedVariables(text: string) {
  const variables: { name: string; value: string; isExample: boolean }[] = [];
  let isExample = false;
  for (const line of text.split('\n')) {
    const [, name, value = ''] = /^# ([A-Z][A-Z_]+)=(.*)$/.exec(line) ?? [];
    if (name !== undefined) variables.push({ name, value, isExample });
    else isExample = line.endsWith('Example:');
  }
  return variables;
}

function block(value: unknown): string {
  return `\`\`\`json\n${compact(JSON.stringify(value, null, 2))}\n\`\`\``;
}

/** Lists of short words in one line. */
function compact(json: string): string {
  return json.replace(
    /\[\n\s+("[\w]+"(?:,\n\s+"[\w]+")*)\n\s+\]/g,
    (_, list: string) => `[${list.replace(/\s+/g, ' ')}]`,
  );
}

/** True for a JSON block with the same names and types: ids and times differ from one run of the program to the next. */
function hasShapeOf(value: unknown): (kept: string) => boolean {
  return (kept) => {
    const json = /^```json\n(.*)\n```$/s.exec(kept)?.[1];
    return json !== undefined && shape(JSON.parse(json)) === shape(value);
  };
}

function shape(value: unknown): string {
  if (Array.isArray(value)) return `[${value.slice(0, 1).map(shape)}]`;
  if (typeof value !== 'object' || value === null) return value === null ? 'null' : typeof value;
  const names = Object.entries(value).map(([name, it]) =>
    name === 'states' ? name : `${name}:${shape(it)}`,
  );
  return `{${names.sort()}}`;
}

function tableOf(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [titles, ...rows];
  const widths = titles.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) =>
    `| ${widths.map((width, i) => (row[i] ?? '').padEnd(width)).join(' | ')} |`;
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  return [line(titles), rule, ...rows.map(line)].join('\n');
}
