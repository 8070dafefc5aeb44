import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SKIPPED = /(^|\/)(node_modules|dist|build|bench\/results|\.git|\.lab|\.turbo)(\/|$)/;
/** Written from the table of errors, not by hand. */

/** Links, paths, commands, options and variables that documents name. Tables of the API: apps/ingest-api/test/documents.test.ts. */
describe('the documents', () => {
  let files: string[];
  let documents: Map<string, string>;
  let source: string;

  before(async () => {
    const entries = await readdir(ROOT, { recursive: true, withFileTypes: true });
    files = entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
      .filter((path) => !SKIPPED.test(path));
    const names = files.filter((path) => path.endsWith('.md'));
    documents = new Map(await Promise.all(names.map(async (name) => [name, await read(name)] as const)));
    const sources = files.filter(
      (path) => /\.(ts|mjs|py|sh)$/.test(path) && !path.startsWith('e2e/documents'),
    );
    source = (await Promise.all(sources.map(read))).join('\n');
    expect(documents.size).to.be.above(20);
  });

  const read = (path: string) => readFile(join(ROOT, path), 'utf8');

  /** Fails with all findings at once. */
  function expectNone(found: readonly string[]): void {
    expect([...new Set(found)].join('\n')).to.equal('');
  }

  /** What is within backticks, and the lines of code blocks. */
  function codeOf(text: string): string[] {
    const blocks = [...text.matchAll(/^[ ]*```\w*\n(.*?)^[ ]*```$/gms)].flatMap(([, block = '']) =>
      block.replaceAll('\\\n', ' ').split('\n'),
    );
    const prose = text.replace(/^[ ]*```.*?^[ ]*```$/gms, '');
    return [...blocks, ...[...prose.matchAll(/`([^`\n]+)`/g)].map(([, code = '']) => code)];
  }

  it('have no link that leads nowhere', () => {
    const found: string[] = [];
    for (const [name, text] of documents) {
      const prose = text
        .replace(/^[ ]*```.*?^[ ]*```$/gms, '')
        .replace(/`[^`\n]*`/g, (code) => code.replace(/[()[\]]/g, ''));
      for (const [, target = ''] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target)) continue;
        const [path = '', anchor] = target.split('#');
        const linked = path === '' ? name : join(dirname(name), path);
        if (!existsSync(join(ROOT, linked))) found.push(`${name}: ${target} does not exist`);
        else if (anchor !== undefined && !anchorsOf(documents.get(linked) ?? '').includes(anchor))
          found.push(`${name}: ${target}: there is no such heading`);
      }
    }
    expectNone(found);
  });

  it('lead from each alert to its paragraph of the runbook, and have no paragraph without an alert', async () => {
    const rules = await read('docker/prometheus/alerts.yaml');
    const runbook = documents.get('docs/operations.md') ?? '';
    for (const [, anchor = ''] of rules.matchAll(/runbook: docs\/operations\.md#(\S+)/g))
      expect(anchorsOf(runbook)).to.include(anchor);
    const alerts = [...rules.matchAll(/alert: (\w+)/g)].map(([, alert]) => alert);
    expect([...runbook.matchAll(/^### (Ingest\w+)$/gm)].map(([, title]) => title)).to.have.members(alerts);
  });

  it('name no file or folder that does not exist', () => {
    const top = new Set(files.map((path) => path.split('/')[0] ?? ''));
    const names = new Set(files.map((path) => basename(path)));
    const folders = new Set(files.flatMap((path) => dirname(path).split('/')));
    const found: string[] = [];
    for (const [name, text] of documents) {
      for (const word of codeOf(text).flatMap((code) => code.split(/[\s"'=(),;]+/))) {
        const path = word.replace(/^\.\//, '').replace(/[:.]$/, '').replace(/#.*/, '');
        if (/[*<>{}$…@]|\.\.\.|^apps\/v1$/.test(path)) continue; // apps/v1: Kubernetes
        const isInTree = path.includes('/') && top.has(path.split('/')[0] ?? '');
        const isFileName = /^[\w.-]+\.(ts|mjs|svg|ya?ml)$/.test(path);
        const exists = [ROOT, join(ROOT, dirname(name))].some((base) =>
          ['', '.test.ts'].some((ending) => existsSync(join(base, `${path}${ending}`))),
        );
        if (isInTree && !exists && !isWrittenByProgram(path)) found.push(`${name}: ${path}`);
        if (isFileName && !names.has(path) && !exists) found.push(`${name}: ${path}`);
        if (/^[a-z-]+\/$/.test(path) && !folders.has(path.slice(0, -1)) && !isWrittenByProgram(path))
          found.push(`${name}: ${path}`);
      }
    }
    expectNone(found);
  });

  it('name a test that exists for each threat', () => {
    const table = (documents.get('SECURITY.md') ?? '').split('## Threats')[1]?.split('\n## ')[0] ?? '';
    const rows = [...table.matchAll(/^\| .* \| ([^|]+) \|$/gm)].map(([, tests = '']) => tests).slice(2);
    expect(rows).to.have.length.above(30);
    const tests = files.filter((path) => path.endsWith('.test.ts'));
    const words = rows.flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, word = '']) => word));
    const isTest = (word: string) => tests.some((path) => `/${path}`.endsWith(`/${word}.test.ts`));
    expectNone(words.filter((word) => !files.includes(word) && !isTest(word)));
    for (const cell of rows) expect(cell).to.include('`');
  });

  it('exist where code refers to them, with the heading that it quotes', async () => {
    const found: string[] = [];
    const referring = files.filter(
      (path) => /\.(ts|mjs|py|sh|sql|ya?ml|example)$/.test(path) && !/^e2e\/documents|\/test\//.test(path),
    );
    for (const name of referring) {
      const text = (await read(name)).replace(/\n *(\*|\/\/|#) */g, ' ');
      for (const [, document = '', , title] of text.matchAll(
        /\b(docs\/[\w/-]+\.md)( \("|, "| \()?(?:([^"()]+)["')])?/g,
      )) {
        const headings = anchorsOf(documents.get(document) ?? '');
        if (headings.length === 0) found.push(`${name}: ${document} does not exist`);
        else if (
          title !== undefined &&
          /^[A-Z]/.test(title) &&
          !headings.some((it) => it.includes(anchorOf(title)))
        )
          found.push(`${name}: ${document} has no heading "${title}"`);
      }
      for (const [reference, number = ''] of text.matchAll(/\b[Dd]ecision (\d+)\b/g))
        if (!files.some((path) => path.startsWith(`docs/decisions/${number.padStart(4, '0')}-`)))
          found.push(`${name}: ${reference}`);
    }
    expectNone(found);
  });

  it('name only npm scripts, and options of benchmarks, that exist', async () => {
    const scripts = Object.keys(JSON.parse(await read('package.json')).scripts);
    const bench = await read('bench/main.ts');
    const found: string[] = [];
    for (const [name, text] of documents) {
      for (const [command, script = '', rest = ''] of text.matchAll(/\bp?npm run ([\w:-]+)([^\n`]*)/g)) {
        if (!scripts.includes(script)) found.push(`${name}: ${command}`);
        const options = script === 'bench' ? (rest.match(/(?<= )--[a-z-]+/g) ?? []) : [];
        for (const option of options)
          if (!new RegExp(`['\\s]${option.slice(2)}'?:`).test(bench))
            found.push(`${name}: npm run bench ${option}`);
      }
    }
    for (const [name, text] of documents) {
      for (const [command, script = '', rest = ''] of text.matchAll(
        /\bnode\s+(bench\/[\w-]+\.ts)([^\n`]*)/g,
      )) {
        const program = files.includes(script) ? await read(script) : '';
        for (const option of rest.match(/(?<= )--[a-z-]+/g) ?? [])
          if (!program.includes(option.slice(2))) found.push(`${name}: ${command}`);
      }
    }
    expectNone(found);
  });

  it('name only commands and options that `uploader` and `ingest-api` have', async function () {
    this.timeout(120_000);
    const found: string[] = [];
    const helps = new Map<string, Promise<string>>();
    const helpOf = (program: string, words: readonly string[]) => {
      const key = [program, ...words].join(' ');
      const help = helps.get(key) ?? helpText(program, words);
      helps.set(key, help);
      return help;
    };
    const texts = [
      ...documents,
      ['docker/compose.yaml', commentsOf(await read('docker/compose.yaml'))] as const,
    ];
    let count = 0;
    for (const [name, text] of texts) {
      for (const line of codeOf(text)) {
        const [, program = '', rest = ''] = /(?:^|\s)(uploader|ingest-api) ([a-z].*)$/.exec(line) ?? [];
        if (program === '' || /\.(ts|js|tgz)\b/.test(rest.split(' ')[0] ?? '')) continue;
        const [words = '', ...more] = rest.split(/\s(?=[^a-z])|\s+#/);
        const command = await commandOf(program, words.split(/[\s|]+/), helpOf);
        if (command === undefined) {
          found.push(`${name}: ${program} ${rest}`);
          continue;
        }
        count += 1;
        const help = await helpOf(program, command);
        for (const option of more.join(' ').match(/(?<![\w-])--[a-z-]+/g) ?? [])
          if (!help.includes(option) && option !== '--help' && !MISTAKES.has(option))
            found.push(`${name}: ${program} ${command.join(' ')} has no ${option}`);
      }
    }
    expect(count).to.be.above(40);
    expectNone(found);
  });

  it('quote only messages that the programs have', () => {
    const manual = documents.get('docs/uploader.md') ?? '';
    const table = manual.slice(manual.indexOf('## What to do at each error'), manual.indexOf('## Settings'));
    const messages = [...table.matchAll(/^\| (`.*?) +\| /gm)].flatMap(([, cell = '']) =>
      [...cell.matchAll(/`([^`]+)`/g)].map(([, message = '']) => message),
    );
    expect(messages).to.have.length.above(20);
    const plain = source.replace(/\$\{[^}]*\}/g, '…');
    const ofNode = /ENOTFOUND|self-signed|does not match/;
    // An example in a message (502, 60 s, a path) is a value in the code.
    const parts = messages
      .filter((message) => !ofNode.test(message))
      .flatMap((message) => message.split(/…|[\w/.-]+\.jsonl|\d+|[:;()]/))
      .map((part) => part.replace(/^[\s:;()]+|[\s:;()]+$/g, ''))
      .filter((part) => part.length > 3);
    expectNone(parts.filter((part) => !plain.includes(part)));
  });

  it('name only variables that the programs read, and .env.example names all of ingest-api', async () => {
    const found: string[] = [];
    const compose = `${await read('docker/compose.yaml')}${await read('docker/compose.bucket.yaml')}`;
    const example = await read('.env.example');
    for (const [name, text] of [...documents, ['.env.example', example] as const])
      for (const variable of text.match(
        /\b(INGEST|UPLOADER|LAB|BENCH|TEST|SCORE_LINES|SCORE_INGEST)_[A-Z_]*[A-Z]\b/g,
      ) ?? [])
        if (!source.includes(variable) && !compose.includes(variable)) found.push(`${name}: ${variable}`);
    expectNone(found);

    const service = files.filter((path) => /^apps\/ingest-api\/src\/.*\.ts$/.test(path));
    const code = (await Promise.all(service.map(read))).join('\n');
    const read_ = new Set(code.match(/\bINGEST_[A-Z_]*[A-Z]\b/g));
    expect(read_.size).to.be.above(20);
    for (const variable of read_) expect(example).to.match(new RegExp(`^(# )?${variable}=`, 'm'));
  });

  it('give each variable of the compose file with its default', async () => {
    const compose = await read('docker/compose.yaml');
    const manual = documents.get('docs/deployment.md') ?? '';
    const example = await read('.env.example');
    for (const [, variable = '', value = ''] of compose.matchAll(/\$\{([A-Z_]+):-([^}]*)\}/g)) {
      if (value === '' || example.includes(`# ${variable}=${value}`)) continue;
      expect(manual, variable).to.include(`\`${variable}\` (default \`${value}\``);
    }
  });

  it('name every variable that the lab, the tests and the benchmarks read', () => {
    const text = [...documents.values()].join('\n');
    const names = new Set(
      [...source.matchAll(/\benv\.((?:LAB|BENCH|TEST|SCORE_LINES|PG|CHROMIUM|AIRFLOW)(?:_[A-Z]+)*)\b/g)].map(
        ([, name = '']) => name,
      ),
    );
    const ofAirflow = (name: string) => name.startsWith('AIRFLOW_CTX');
    expectNone([...names].filter((name) => !ofAirflow(name) && !text.includes(`\`${name}`)));
  });

  it('have a reason for each direct dependency, and for no other', async () => {
    const reasons = documents.get('docs/decisions/0005-dependencies.md') ?? '';
    const named = [...reasons.matchAll(/^\| (`.*?) +\|/gm)].flatMap(([, cell = '']) =>
      [...cell.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name),
    );
    const manifests = await Promise.all(files.filter((path) => basename(path) === 'package.json').map(read));
    const direct = manifests
      .map((text) => JSON.parse(text))
      .flatMap(({ dependencies, devDependencies }) =>
        Object.entries<string>({ ...dependencies, ...devDependencies }),
      )
      .filter(([, version]) => !version.startsWith('workspace:'))
      .map(([name]) => name.replace(/^@types\/.*/, '@types/*'));
    expect([...new Set(direct)].sort()).to.deep.equal([...new Set(named)].sort());
  });

  it('show in the README what the lab prints', async () => {
    const readme = documents.get('README.md') ?? '';
    expect(readme.split('\n').length).to.be.below(70);
    expect(readme).to.match(/<!-- lab -->\n\n```\n[\s\S]+?\n```/);
  });
});

/** Options that a document shows as a mistake. */
const MISTAKES = new Set(['--tranfers']);

/** Files that a build or a run makes. */
function isWrittenByProgram(path: string): boolean {
  return /^(apps\/uploader\/build|bench\/results|dist|docker\/tls|docker\/\.env)(\/|$)/.test(path);
}

/** As GitHub makes them of headings. */
function anchorsOf(text: string): string[] {
  return [...text.replace(/^```.*?^```$/gms, '').matchAll(/^#+ (.+)$/gm)].map(([, title = '']) =>
    anchorOf(title),
  );
}

function anchorOf(title: string): string {
  return title
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');
}

/** Comments as a code block, so that their commands are found. */
function commentsOf(yaml: string): string {
  const lines = yaml.split('\n').flatMap((line) => /^ *# ? ?(.*)/.exec(line)?.[1] ?? []);
  return `\`\`\`\n${lines.filter((line) => /^\s*(docker|npx|uploader|ingest-api) /.test(line)).join('\n')}\n\`\`\`\n`;
}

async function helpText(program: string, words: readonly string[]): Promise<string> {
  const bin = join(ROOT, `apps/${program}/bin/${program}.js`);
  const { stdout } = await promisify(execFile)(process.execPath, [bin, ...words, '--help']);
  return stdout;
}

/** The longest beginning of the words that is a command; undefined when the first word is none. */
async function commandOf(
  program: string,
  words: readonly string[],
  helpOf: (program: string, words: readonly string[]) => Promise<string>,
): Promise<string[] | undefined> {
  const command: string[] = [];
  for (const word of words) {
    const help = await helpOf(program, command);
    const [, list = ''] = /\nCommands:\n([\s\S]*?)(\n\n|$)/.exec(help) ?? [];
    if (!list.split('\n').some((line) => line.trim().split(/[ |]/)[0] === word)) break;
    command.push(word);
  }
  return command.length === 0 ? undefined : command;
}
