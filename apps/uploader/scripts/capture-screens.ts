// Puts what the uploader shows on a terminal into docs/uploader.md, between `<!-- screen: NAME -->` and the
// next comment: the real program on a pseudo-terminal, against a real service. From a built checkout with
// python3:   node apps/uploader/scripts/capture-screens.ts
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { startPostgres } from 'local-postgres';
import { runProgram } from '../../../e2e/support/programs.ts';
import { startTestSystem } from '../../../e2e/support/test-system.ts';
import { startOnTerminal, type TerminalRun } from '../test/support/terminal.ts';
import { waitUntil } from '../test/support/wait-until.ts';

const MANUAL = fileURLToPath(new URL('../../../docs/uploader.md', import.meta.url));
/**
 * Of the screens that are shown while they change, and of those that are kept whole: nothing is broken there.
 */
const COLUMNS = 120;
const WIDE_COLUMNS = 400;
const ROWS = 16;
const LONG_MS = 120_000;

/** What people send instead of JSON Lines most often. */
const MISTAKES: Readonly<Record<string, string | Buffer>> = {
  array: '[{"pk":"1","score":0.5},{"pk":"2","score":0.7}]',
  pretty: '{\n  "pk": "1",\n  "score": 0.5\n}\n{\n  "pk": "2",\n  "score": 0.7\n}\n',
  csv: 'pk,score\n1,0.5\n2,0.7\n',
  gzip: gzipSync('{"pk":"1","score":0.5}\n'),
  'utf-16': Buffer.from('{"pk":"1","score":0.5}\n', 'utf16le'),
  python: "{'pk': '1', 'score': None}\n",
  nan: '{"pk":"1","score":NaN}\n',
  null: '{"pk":"1","score":null}\n',
  keys: '{"PK":"1","Score":0.5}\n',
  zeros: '{"pk":007,"score":0.5}\n',
};

const dir = mkdtempSync(join(tmpdir(), 'uploader-screens-'));
const postgres = await startPostgres({ dataDir: join(dir, 'postgres') });
process.env.TEST_DATABASE_URL = postgres.superuserUrl;
process.env.TMPDIR = dir;
const system = await startTestSystem();
try {
  const service = await system.startService();
  system.startLoader();
  const operator = await createToken('olga', 'operate');
  const show = (args: string[], token = system.token, columns = WIDE_COLUMNS): TerminalRun =>
    startOnTerminal(
      args,
      { UPLOADER_URL: service.url, UPLOADER_TOKEN: token, HOME: dir },
      columns,
      ROWS,
      dir,
    );

  const screens = new Map<string, string[]>();
  const keep = (name: string, run: TerminalRun) => screens.set(name, run.screen());
  /** The command, all that it left on the screen, and its exit code where that is not 0. */
  const whole = async (name: string, args: string[], token?: string) => {
    const run = show(args, token);
    const code = await run.exitCode;
    const ending = code === 0 ? [] : ['$ echo $?', String(code)];
    screens.set(name, [`$ uploader ${args.map(quoted).join(' ')}`, ...run.everything(), ...ending]);
  };
  const setContract = async (model: string, contract: Record<string, number>) => {
    const headers = { Authorization: `Bearer ${operator}`, 'Content-Type': 'application/json' };
    const body = JSON.stringify(contract);
    const { status } = await fetch(`${service.url}/v1/models/${model}`, { method: 'PUT', headers, body });
    if (status !== 200) throw new Error(`The contract of ${model} was answered with ${status}.`);
  };

  writeScores('scores/churn/2026-11/part-1.jsonl', 0, 4_000_000);
  writeScores('scores/churn/2026-11/part-2.jsonl', 4_000_000, 2_400_000);
  writeScores('scores/churn/2026-11/part-3.jsonl', 6_400_000, 1_600_000);
  const pushed = show(['push', 'scores', '--bwlimit', '40MB', '--poll', '100ms'], undefined, COLUMNS);
  const seen = async (name: string, what: RegExp) => {
    await waitUntil(name, () => pushed.screen().some((line) => what.test(line)), LONG_MS);
    keep(name, pushed);
  };
  await seen('sending', /^churn.* [4-6]\d % .*sending \d of 3 files/);
  await seen('copying', /^churn.* [4-9]\d % .*left +loading: copying/);
  await seen('building key', /building key \(writing the index\)/);
  const pushCode = await pushed.exitCode;
  if (pushCode !== 0) throw new Error(`The push ended with ${pushCode}:\n${pushed.everything().join('\n')}`);
  screens.set('published', ['$ uploader push scores', ...pushed.everything()]);

  writeScores('bad/fraud/2026-11/a.jsonl', 0, 1000);
  appendFileSync(join(dir, 'bad/fraud/2026-11/a.jsonl'), '{"pk":"1001","score":"high"}\n{"pk":"1002","sco');
  await whole('check', ['check', 'bad']);
  await whole('rejected', ['push', 'bad']);

  writeScores('small/propensity/2026-10/a.jsonl', 0, 1000);
  await show(['push', 'small']).exitCode;
  await setContract('propensity', { minRows: 500 });
  writeScores('held/propensity/2026-11/a.jsonl', 0, 100);
  await whole('held', ['push', 'held']);
  await whole('status of one', ['status', 'propensity', '2026-11']);
  await whole('status', ['status']);
  const reason = ['--reason', 'a small month', '--force'];
  await whole('publish', ['publish', 'propensity', '2026-11', ...reason], operator);
  writeScores('all/churn/2026-11/a.jsonl', 0, 1000);
  writeScores('all/propensity/2026-11/a.jsonl', 0, 100);
  writeScores('all/fraud/2026-11/a.jsonl', 0, 1000);
  appendFileSync(join(dir, 'all/fraud/2026-11/a.jsonl'), '{"pk":"1001","score":"high"}\n');
  await whole('several', ['push', 'all']);
  await whole('near option', ['push', 'scores', '--tranfers', '8']);

  for (const [name, content] of Object.entries(MISTAKES)) {
    mkdirSync(join(dir, 'out'), { recursive: true });
    writeFileSync(join(dir, 'out/scores.jsonl'), content);
    await whole(`mistake: ${name}`, ['check', 'out', '--model', 'churn', '--run', '2026-11']);
  }
  const elsewhere = ['push', 'small', '--url', 'http://127.0.0.1:9', '--max-duration', '3s'];
  await whole('mistake: address', elsewhere);

  for (const [name, lines] of screens) console.log(`--- ${name}\n${lines.join('\n')}`);
  putInto(MANUAL, screens);
} finally {
  await system.stop();
  await postgres.stop();
  rmSync(dir, { recursive: true, force: true });
}

/** Keys of one file follow each other, and those of the next file follow them: no two are the same. */
function writeScores(name: string, firstKey: number, rows: number): void {
  const lines = Array.from({ length: rows }, (_, row) => {
    const key = 10_000_000 + firstKey + row;
    return `{ "pk": "${key}", "score": "${(key * 7919) % 100}" }\n`;
  });
  mkdirSync(dirname(join(dir, name)), { recursive: true });
  writeFileSync(join(dir, name), lines.join(''));
}

async function createToken(name: string, scope: string): Promise<string> {
  const args = ['token', 'create', name, '--scope', scope];
  const { stdout } = await runProgram('ingest-api', args, { DATABASE_URL: system.databaseUrl });
  return stdout.trimEnd().split('\n').at(-1) ?? '';
}

function quoted(arg: string): string {
  return /\s/.test(arg) ? JSON.stringify(arg) : arg;
}

function putInto(path: string, screens: Map<string, string[]>): void {
  const text = readFileSync(path, 'utf8');
  const filled = text.replace(
    /(<!-- screen: (.+?) -->\n)[\s\S]*?(?=<!-- end of screen -->)/g,
    (_all, opening: string, name: string) => {
      const lines = screens.get(name);
      if (lines === undefined)
        throw new Error(`${path} asks for a screen "${name}", which is not made here.`);
      return `${opening}\n\`\`\`console\n${lines.join('\n')}\n\`\`\`\n\n`;
    },
  );
  writeFileSync(path, filled);
}
