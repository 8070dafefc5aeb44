import { appendFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { runProgram } from '../../../e2e/support/programs.ts';
import { writeScoreFile } from '../../../e2e/support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from '../../../e2e/support/test-system.ts';

describe('uploader status, publish, withdraw and retry, to the real service', () => {
  let system: TestSystem;
  let service: Service;
  let operator: Record<string, string>;

  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
    system.startLoader();
    const args = ['token', 'create', 'olga', '--scope', 'operate'];
    const { stdout } = await runProgram('ingest-api', args, { DATABASE_URL: system.databaseUrl });
    operator = { UPLOADER_TOKEN: stdout.trimEnd().split('\n').at(-1) ?? '' };
  });
  after(() => system.stop());

  const run = (args: string[], env: Record<string, string> = {}) =>
    system.runUploader(service.url, args, env);
  const push = async (model: string, name: string, lines: number) => {
    const dir = join(system.workDir, model, name);
    const file = await writeScoreFile(join(dir, 'a.jsonl'), lines, lines);
    const again = () => run(['push', dir, '--model', model, '--run', name, '--json']);
    return { file, again, ending: await again() };
  };
  const setContract = async (model: string, contract: Record<string, number | string>) => {
    const response = await fetch(`${service.url}/v1/models/${model}`, {
      method: 'PUT',
      headers: { Authorization: `Bearer ${operator.UPLOADER_TOKEN}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(contract),
    });
    expect(response.status).to.equal(200);
  };
  const rowsShown = async (model: string) => {
    const [row] = await system.query<{ rows: number }>(`SELECT count(*)::int AS rows FROM scores.${model}`);
    return row?.rows;
  };

  it('lists the newest runs of all models, or of one, as a table', async () => {
    await push('listed_a', '2026-10', 10);
    await push('listed_b', '2026-11', 20);
    const all = await run(['status']);
    expect(all.code, all.stderr).to.equal(0);
    const [heading, ...rows] = all.stdout.trimEnd().split('\n');
    expect(heading).to.match(/^MODEL +RUN +REV +STATE +SHOWN +ROWS +SIZE +DECLARED +BY$/);
    expect(rows.find((row) => row.startsWith('listed_b'))).to.match(/2026-11 +1 +published +this +20 /);
    const one = await run(['status', 'listed_a', '--json']);
    expect(JSON.parse(one.stdout).runs).to.have.length(1);
    const none = await run(['status', 'listed_never']);
    expect(none.code).to.be.oneOf([0, 77]);
  });

  it('says which models have an overdue run, beside the table', async () => {
    await push('overdue', '2026-01', 10);
    await setContract('overdue', { expectEvery: '1 month', expectGrace: '3 days' });
    const line =
      'overdue: overdue since 2026-02-04 00:00Z: no run as of 2026-02-01 00:00Z or later is published; readers see 2026-01\n';
    for (const args of [['status'], ['status', 'overdue']]) {
      const { stdout, stderr, code } = await run(args);
      expect(stderr).to.include(line);
      expect(stdout).to.not.include('overdue since');
      expect(code).to.equal(0);
    }
    const json = JSON.parse((await run(['status', '--json'])).stdout);
    expect(json.overdue[0]).to.deep.include({ model: 'overdue', newest: null });
    expect((await run(['status', 'listed_a'])).stderr).to.not.include('overdue');
    await setContract('overdue', {});
  });

  it('rolls back to an older run and forth again, and keeps who and why', async () => {
    await push('rolled', '2026-10', 100);
    await push('rolled', '2026-11', 200);
    const back = await run(['publish', 'rolled', '2026-10', '--reason', 'wrong features'], operator);
    expect(back.code, back.stderr).to.equal(0);
    expect(back.stdout).to.equal('Readers of scores.rolled see 2026-10 revision 1, 100 rows.\n');
    expect(await rowsShown('rolled')).to.equal(100);
    const forth = await run(
      ['publish', 'rolled', '2026-11', '--revision', '1', '--reason', 'fixed', '--json'],
      operator,
    );
    expect(JSON.parse(forth.stdout)).to.deep.include({ result: 'published', exitCode: 0 });
    expect(await rowsShown('rolled')).to.equal(200);
  });

  it('publishes what a gate holds only by --force, and only for who may operate', async () => {
    await push('gated', '2026-10', 100);
    await setContract('gated', { minRows: 50 });
    const held = await push('gated', '2026-11', 10);
    expect(held.ending.code, held.ending.stderr).to.equal(65);
    expect(JSON.parse(held.ending.stdout).runs[0].state).to.equal('held');
    const shown = await run(['status', 'gated', '2026-11']);
    expect(shown.code).to.equal(65);
    const sentence =
      'it breaks a quality gate: the run has 10 rows; the contract requires at least 50. Push corrected files, or';
    expect(shown.stdout).to.include('held').and.include(sentence);
    expect(held.ending.stderr).to.include(sentence);
    expect(held.ending.stderr).to.include('uploader publish gated 2026-11 --force --reason TEXT');

    const args = ['publish', 'gated', '2026-11', '--reason', 'a small month'];
    expect((await run(args)).code).to.equal(77);
    const refused = await run(args, operator);
    expect(refused.code, refused.stderr).to.equal(65);
    expect(await rowsShown('gated')).to.equal(100);
    const forced = await run([...args, '--force'], operator);
    expect(forced.code, forced.stderr).to.equal(0);
    expect(await rowsShown('gated')).to.equal(10);
  });

  it('shows the first ten bad lines of a push, how many there are of each kind, and where the others are', async () => {
    const { file, again } = await push('refused', '2026 11', 5);
    appendFileSync(file.path, `${'no json\n'.repeat(11)}{"pk":"x"}\n`);
    const { code, stderr } = await again();
    expect(code).to.equal(65);
    // One fault is one line, however many lines of the file have it.
    expect(stderr.match(/^refused\/2026 11: a\.jsonl:.*$/gm)).to.have.length(1);
    expect(stderr).to.match(
      /^refused\/2026 11: a\.jsonl:6 \(byte \d+\) invalid_json: .* The same in line 7, 8, .*, 15\. The line: no json$/m,
    );
    const rest = /12 bad lines in all \((.+)\)\. The run's page and GET (\S+) list the/.exec(stderr);
    expect(rest?.[1]?.split(', ')).to.have.members(['11 invalid_json', '1 missing_score']);
    const headers = { Authorization: `Bearer ${operator.UPLOADER_TOKEN}` };
    const listed = await fetch(rest?.[2] ?? '', { headers });
    expect((await listed.text()).trimEnd().split('\n')).to.have.length(12);
  });

  it('withdraws what readers do not see, again and again, and nothing else', async () => {
    await push('withdrawn', '2026-10', 10);
    await setContract('withdrawn', { minRows: 10 });
    expect((await push('withdrawn', '2026-11', 5)).ending.code).to.equal(65);
    const args = ['withdraw', 'withdrawn', '2026-11', '--reason', 'the wrong month'];
    for (const more of [[], ['--revision', '1']]) {
      const { code, stdout, stderr } = await run([...args, ...more], operator);
      expect(code, stderr).to.equal(0);
      expect(stdout).to.equal(
        'withdrawn/2026-11: revision 1 is withdrawn. Readers of scores.withdrawn see 2026-10 revision 1.\n',
      );
    }
    const json = await run([...args, '--json'], operator);
    expect(JSON.parse(json.stdout)).to.deep.include({ result: 'withdrawn', exitCode: 0 });
    const [audit] = await system.query<{ detail: { reason: string } }>(
      `SELECT detail FROM ingest.audit_event WHERE action = 'withdraw' AND model = 'withdrawn'`,
    );
    expect(audit?.detail.reason).to.equal('the wrong month');
    expect((await run(['status', 'withdrawn', '2026-11'])).stdout).to.include(
      `its page: ${service.url}/#/runs/withdrawn/2026-11`,
    );
    const shown = await run(['withdraw', 'withdrawn', '2026-10'], operator);
    expect([shown.code, await rowsShown('withdrawn')]).to.deep.equal([65, 10]);
    expect(shown.stderr).to.match(/publish another run before you withdraw this one \(request [^)]+\)\.\n$/);
  });

  it('retries no run in a state that does not allow it: 65 at once', async () => {
    await push('not_failed', 'published', 10);
    await setContract('not_failed', { minRows: 10 });
    await push('not_failed', 'held', 5);
    const file = { name: 'a.jsonl', bytes: 9, sha256: '0'.repeat(64), lines: 1 };
    for (const [name, state] of [
      ['receiving', 'receiving'],
      ['withdrawn', 'cancelled'],
    ] as const) {
      const declared = await fetch(`${service.url}/v1/models/not_failed/runs/${name}`, {
        method: 'PUT',
        headers: { Authorization: `Bearer ${system.token}`, 'Content-Type': 'application/json' },
        body: JSON.stringify({ files: [file] }),
      });
      expect(declared.status).to.equal(201);
      if (state === 'cancelled') await run(['withdraw', 'not_failed', name], operator);
    }
    for (const [name, ...options] of [
      ['published'],
      ['held', '--no-wait'],
      ['receiving'],
      ['receiving', '--no-wait'],
      ['withdrawn'],
    ] as const) {
      const args = ['retry', 'not_failed', name, '--max-duration', '20s', ...options];
      const { code, stderr } = await run(args, operator);
      expect(code, `${args.join(' ')}: ${stderr}`).to.equal(65);
    }
  });

  it('does nothing, and ends with 2, where a dry run is asked of a command that acts and has none', async () => {
    await push('dry_acts', '2026-10', 10);
    await setContract('dry_acts', { minRows: 10 });
    const { file } = await push('dry_acts', '2026-11', 5);
    writeFileSync(join(dirname(file.path), '_SUCCESS'), '');
    const states = () =>
      system.query(`SELECT run_key, revision, state FROM ingest.run_revision WHERE model = 'dry_acts'`);
    const before = await states();
    for (const args of [
      ['withdraw', 'dry_acts', '2026-11'],
      ['retry', 'dry_acts', '2026-11'],
      ['publish', 'dry_acts', '2026-11', '--force', '--reason', 'x'],
      ['watch', dirname(dirname(file.path)), '--model', 'dry_acts'],
    ]) {
      const { code, stderr } = await run(args, { ...operator, UPLOADER_DRY_RUN: 'true' });
      expect(code, stderr).to.equal(2);
      expect(stderr).to.include(`uploader ${args[0]} has no --dry-run: nothing was done`);
    }
    expect(await states()).to.deep.equal(before);
    const { code } = await run(['status', 'dry_acts', '2026-10'], { UPLOADER_DRY_RUN: 'true' });
    expect(code).to.equal(0);
  });

  describe('refuses:', () => {
    const covered =
      'There is no model "no_such" that this token covers; check the name, or ask the operators';
    const known = (which: string) => `Model "named" has no ${which}run "nope"`;
    let narrow: Record<string, string>;
    before(async () => {
      await push('named', '2026-11', 10);
      const args = ['token', 'create', 'narrow', '--scope', 'operate', '--model', 'named'];
      const { stdout } = await runProgram('ingest-api', args, { DATABASE_URL: system.databaseUrl });
      narrow = { UPLOADER_TOKEN: stdout.trimEnd().split('\n').at(-1) ?? '' };
    });

    for (const [command, ...more] of [
      ['publish', '--reason', 'x'],
      ['retry'],
      ['withdraw'],
      ['publish', '--reason', 'x', '--revision', '9'],
      ['withdraw', '--revision', '9'],
    ] as [string, ...string[]][])
      it(`${command} ${more.join(' ')} ends with 2 for a run of a model that the token covers, and with 77 for another model`, async () => {
        const which = more.includes('9') ? 'revision 9 of ' : '';
        const wrong = await run([command, 'named', 'nope', ...more], narrow);
        expect(wrong.code, wrong.stderr).to.equal(2);
        expect(wrong.stderr).to.include(known(which)).and.not.include('token');
        const hidden = await run([command, 'no_such', '2026-11', ...more], narrow);
        expect(hidden.code, hidden.stderr).to.equal(77);
        expect(hidden.stderr).to.include(covered);
      });

    it('status ends with 75 for a run: it may be pushed later', async () => {
      for (const model of ['named', 'no_such'])
        expect((await run(['status', model, 'nope'], narrow)).code).to.equal(75);
    });

    it('a push of more rows than the contract allows ends with 2, and what the service says is all it says', async () => {
      await setContract('limited', { maxRows: 5 });
      const { ending } = await push('limited', '2026-11', 6);
      expect(ending.code, ending.stderr).to.equal(2);
      expect(JSON.parse(ending.stdout).runs[0].error.detail).to.match(
        /--max-bytes N --max-rows N \(request [^)]+\)\.$/,
      );
    });
  });

  it('has a failed run loaded again, and waits for its end', async () => {
    const { file, again } = await push('retried', '2026-11', 10);
    appendFileSync(file.path, 'no json\n');
    expect((await again()).code).to.equal(65);
    const vain = await run(
      ['retry', 'retried', '2026-11', '--reason', 'to see it again', '--json'],
      operator,
    );
    expect(vain.code, vain.stderr).to.equal(65);
    await setContract('retried', { maxRejectedLines: 1 });
    const helped = await run(['retry', 'retried', '2026-11'], operator);
    expect(helped.code, helped.stderr).to.equal(0);
    expect(helped.stdout).to.include('published');
    expect(await rowsShown('retried')).to.equal(10);
  });
});
