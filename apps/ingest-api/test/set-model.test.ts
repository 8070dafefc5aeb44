import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { Command } from 'commander';
import { addAdminCommands } from '../src/commands/admin.ts';
import { exitCodeOf } from '../src/commands/exit-codes.ts';
import { startSystem, type TestSystem } from './support/system.ts';

const run = promisify(execFile);
const MAIN = path.join(import.meta.dirname, '../bin/ingest-api.js');

describe('ingest-api model', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  const modelSet = (...args: string[]) => model('set', ...args);

  async function model(...args: string[]): Promise<{ code: number; out: string }> {
    try {
      const { stdout } = await run(process.execPath, [MAIN, 'model', ...args], {
        env: { ...process.env, DATABASE_URL: system.databaseUrl },
      });
      return { code: 0, out: stdout };
    } catch (error) {
      const { code, stderr } = error as { code: number; stderr: string };
      return { code, out: stderr };
    }
  }

  it('changes what is given, leaves the rest, takes away by none, and keeps who did it', async () => {
    const first = await modelSet(
      'churn',
      '--score-min',
      '-1',
      '--score-max',
      '1',
      '--max-rejected-lines',
      '5',
    );
    expect(first.code, first.out).to.equal(0);
    expect(JSON.parse(first.out)).to.deep.equal({
      model: 'churn',
      contract: { scoreMin: -1, scoreMax: 1, maxRejectedLines: 5 },
    });
    const second = await modelSet('churn', '--score-max', 'none', '--min-rows', '10');
    expect(second.code, second.out).to.equal(0);
    const contract = { scoreMin: -1, maxRejectedLines: 5, minRows: 10 };
    expect(JSON.parse(second.out)).to.deep.equal({ model: 'churn', contract });
    expect(JSON.parse((await modelSet('churn')).out)).to.deep.equal({ model: 'churn', contract });
    const shown = await model('show', 'churn');
    expect(JSON.parse(shown.out)).to.deep.include({ model: 'churn', contract, current: null });
    expect((await model('show')).out, 'of all models, one line each').to.equal(shown.out);
    const unknown = await model('show', 'never_pushed');
    expect([unknown.code, unknown.out]).to.deep.equal([
      2,
      'ingest-api: There is no model "never_pushed"; its first push, or PUT /v1/models/never_pushed, creates it.\n',
    ]);
    for (const [bad, rule] of [
      [['--score-min', '2', '--score-max', '1'], 'scoreMin must not be above scoreMax'],
      [['--max-rows', '9'], 'minRows must not be above maxRows'],
      [['--expect-grace', '1 day'], 'expectGrace needs expectEvery'],
    ] as const) {
      const refused = await modelSet('churn', ...bad);
      expect([refused.code, refused.out.includes(rule)], refused.out).to.deep.equal([2, true]);
    }
    const kept = await system.query(
      `SELECT actor LIKE 'cli:%' AS by_cli, detail->'contract' AS contract FROM ingest.audit_event WHERE action = 'set_contract' ORDER BY event_id`,
    );
    expect(kept).to.have.length(2);
    expect(kept[1]).to.deep.equal({ by_cli: true, contract });
  });

  it('sets texts too: how often runs are expected, and who answers for them', async () => {
    const set = await modelSet(
      'rhythm',
      '--expect-every',
      '1 month',
      '--owner',
      'Ana Souza',
      '--contact',
      '#scores',
    );
    expect(set.code, set.out).to.equal(0);
    const contract = { expectEvery: '1 month', owner: 'Ana Souza', contact: '#scores' };
    expect(JSON.parse(set.out)).to.deep.equal({ model: 'rhythm', contract });
    const wrong = await modelSet('rhythm', '--expect-every', 'monthly');
    expect(wrong.code).to.equal(2);
    expect(wrong.out).to.include('expectEvery: it must be a number and hours, days, weeks, months or years');
    const { out } = await modelSet(
      'rhythm',
      '--expect-every',
      'none',
      '--owner',
      'none',
      '--contact',
      'none',
    );
    expect(JSON.parse(out)).to.deep.equal({ model: 'rhythm', contract: {} });
  });

  it('sets attributes as JSON', async () => {
    const attributes = [{ name: 'decile', type: 'integer', required: true, min: 1, max: 10 }];
    const set = await modelSet('with_attributes', '--attributes', JSON.stringify(attributes));
    expect(set.code, set.out).to.equal(0);
    expect(JSON.parse(set.out)).to.deep.equal({ model: 'with_attributes', contract: { attributes } });
    expect((await modelSet('with_attributes', '--attributes', 'decile')).out).to.contain(
      'a JSON array such as',
    );
    for (const range of [{ max: 3 }, { min: 6, max: 9 }]) {
      const outside = [{ name: 'decile', type: 'number', enum: [1, 5], ...range }];
      const refused = await modelSet('with_attributes', '--attributes', JSON.stringify(outside));
      expect(refused.out).to.contain('each value of enum must be from min to max');
    }
    const wrong = await modelSet('with_attributes', '--attributes', '[{"name":"run","type":"string"}]');
    expect(wrong.out).to.contain('attributes: 0: name: it must not be pk, score');
    expect(
      JSON.parse((await modelSet('with_attributes', '--attributes', 'none')).out).contract,
    ).to.deep.equal({});
  });

  it('may be long: a page of models ends where their contracts become long, and all of them follow', async () => {
    await system.query(
      `INSERT INTO ingest.model (name, contract)
       SELECT 'long_' || n, jsonb_build_object('owner', repeat('o', 60000)) FROM generate_series(1, 7) n`,
    );
    const expected = await system.query<{ name: string }>('SELECT name FROM ingest.model ORDER BY name');
    const names: string[] = [];
    for (let cursor: string | null = ''; cursor !== null; ) {
      const from: string = cursor === '' ? '' : `&cursor=${cursor}`;
      const text = await (await system.request('GET', `/v1/models?limit=1000${from}`)).text();
      expect(text.length).to.be.below(256 * 1024);
      const page = JSON.parse(text) as { models: { model: string }[]; nextCursor: string | null };
      names.push(...page.models.map((it) => it.model));
      cursor = page.nextCursor;
    }
    expect(names).to.deep.equal(expected.map(({ name }) => name));
    const paged = (await (await system.request('GET', '/v1/models?limit=1')).json()) as { models: unknown[] };
    expect(paged.models).to.have.length(1);
  });

  it('takes the address of the database from a file too, as containers have it', async () => {
    const urlFile = path.join(system.dataDir, 'database-url');
    await writeFile(urlFile, `${system.databaseUrl}\n`);
    const { stdout } = await run(process.execPath, [MAIN, 'model', 'set', 'filed', '--min-rows', '1'], {
      env: { ...process.env, DATABASE_URL: '', DATABASE_URL_FILE: urlFile },
    });
    expect(JSON.parse(stdout)).to.deep.equal({ model: 'filed', contract: { minRows: 1 } });
  });

  it('says its version, and names a port that another program uses, and what to do', async () => {
    const { stdout } = await run(process.execPath, [MAIN, '--version']);
    expect(stdout).to.match(/^\d+\.\d+\.\d+\n$/);
    const { port } = new URL(system.url);
    const env = {
      ...process.env,
      DATABASE_URL: system.databaseUrl,
      INGEST_STORE: system.dataDir,
      INGEST_HOST: '127.0.0.1',
      INGEST_PORT: port,
    };
    const refused = await run(process.execPath, [MAIN, 'serve'], { env, timeout: 20_000 }).catch((it) => it);
    expect(refused.code, refused.stderr).to.equal(2);
    expect(refused.stderr).to.contain(`Another program uses port ${port} of 127.0.0.1.`);
    expect(refused.stderr).to.contain('INGEST_PORT').and.not.contain('EADDRINUSE');
  });

  it('refuses what makes no sense, and says what', async () => {
    const negative = await modelSet('churn', '--min-rows=-3');
    expect(negative.code).to.equal(2);
    expect(negative.out).to.contain('The contract of "churn" would not be valid: minRows');
    expect((await modelSet('churn', '--min-rows', 'many')).code).to.equal(2);
    const help = await run(process.execPath, [MAIN, '--help']);
    expect(help.stdout).to.match(/Exit codes:\n +0 .*\n +1 .*\n +2 .*\n +65 .*\n +66 /);
  });

  describe('and the other commands of operators', () => {
    function commands(): Command {
      const program = new Command('ingest-api').exitOverride().configureOutput({ writeErr: () => {} });
      addAdminCommands(program, { DATABASE_URL: system.databaseUrl, INGEST_STORE: system.dataDir });
      return program;
    }
    const exitCode = (args: readonly string[]) =>
      commands()
        .parseAsync(args, { from: 'user' })
        .then(() => 0, exitCodeOf);

    /** A value that each argument takes, so that another one of the same command can be wrong. */
    const GOOD: Readonly<Record<string, string>> = {
      model: 'churn',
      run: '2026-11',
      name: 'airflow',
      reason: 'a test',
      to: '/nowhere',
      'pk-file': '/nowhere',
    };
    const BAD: Readonly<Record<string, readonly string[]>> = {
      model: ['Churn', 'x'.repeat(49)],
      run: ['x'.repeat(201), '..'],
      name: ['two words', 'x'.repeat(65)],
      reason: ['two\nlines', 'x'.repeat(501)],
      scope: ['write', 'push,'],
      'expires-days': ['0', '1.5', '36501'],
      'min-rows': ['-3', '1e999'],
      attributes: ['[1]', '{}', 'null'],
      'expect-every': ['monthly', '-1 days'],
    };

    it('end with 2 for a bad value of every argument', async () => {
      let tried = 0;
      for (const { path: words, command } of leavesOf(commands())) {
        const places = command.registeredArguments.map((it) => it.name());
        const options = command.options.filter((it) => it.required || it.optional);
        for (const target of [...places, ...options.map((it) => it.long?.slice(2) ?? '')]) {
          const values =
            target === 'to' ? ['', 'ftp://host/a', 'file:///a%2Fb'] : ['', '\u0007', ...(BAD[target] ?? [])];
          for (const value of values) {
            const textFor = (name: string) => (name === target ? value : (GOOD[name] ?? ''));
            const given = options.flatMap(({ long = '', mandatory }) =>
              mandatory || long === `--${target}` ? [long, textFor(long.slice(2))] : [],
            );
            const args = [...words, ...places.map(textFor), ...given];
            expect(await exitCode(args), args.join(' ')).to.equal(2);
            tried += 1;
          }
        }
      }
      expect(tried).to.be.above(60);
    });

    it('end with 2 for a name that nobody has, and for what they do not know', async () => {
      for (const line of [
        'token rotate nobody',
        'token revoke nobody',
        'model show nobody',
        'model set churn --nosuch 1',
        'migrate more',
        'store',
        'nosuch',
        'erase --model churn',
        'verify churn 2026-11 more',
      ])
        expect(await exitCode(line.split(' ')), line).to.equal(2);
    });
  });
});

function leavesOf(
  command: Command,
  path: readonly string[] = [],
): { path: readonly string[]; command: Command }[] {
  if (command.commands.length === 0) return [{ path, command }];
  return command.commands.flatMap((it) => leavesOf(it, [...path, it.name()]));
}
