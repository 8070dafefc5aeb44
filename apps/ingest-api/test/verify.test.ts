import { execFile } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { pushRun, scoreLines, startSystem, type TestSystem, untilFinal } from './support/system.ts';

const MAIN = fileURLToPath(new URL('../dist/main.js', import.meta.url));

describe('ingest-api verify', () => {
  let system: TestSystem;
  let partition: string;

  before(async () => {
    system = await startSystem();
    system.startLoader();
    for (const run of ['2026-10', '2026-11']) {
      await pushRun(system, 'churn', run, [{ name: 'a.jsonl', content: `${scoreLines(1_000)}\n\n` }]);
      await untilFinal(system, 'churn', run);
    }
    const [row] = await system.query<{ name: string }>(
      `SELECT format('run_data.%I', 'churn$' || revision_id) AS name FROM ingest.run_revision WHERE run_key = '2026-11'`,
    );
    partition = row?.name ?? '';
  });
  after(() => system.stop());

  const verify = (...args: string[]) => runProgram(['verify', ...args]);

  function runProgram(args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    return new Promise((resolve) => {
      const env = { ...process.env, DATABASE_URL: system.databaseUrl };
      execFile(process.execPath, [MAIN, ...args], { env }, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
      );
    });
  }

  it('says what it compared, of all runs whose rows are kept', async () => {
    const { code, stdout, stderr } = await verify();
    expect(code, stderr).to.equal(0);
    expect(stdout.trim().split('\n')).to.have.length(2);
    expect(stdout).to.match(
      /^ok churn\/2026-11 revision 1: The same: rows 1000, manifest 1002 lines, 0 rejected, min 1, max 1000, sum \/ rows 500\.5, 1000 distinct keys \(amcheck is not installed\), readers see it\.$/m,
    );
    expect(stderr).to.equal('2 revision(s) compared, 0 differ\n');
    expect((await verify('churn', '2026-10')).stdout).to.match(/^ok churn\/2026-10 [^\n]*\n$/);
    const { faults } = JSON.parse((await verify('churn', '2026-11', '--json')).stdout) as {
      faults: string[];
    };
    expect(faults).to.deep.equal([]);
  });

  it('ends with 66 when nothing has the name, and with 2 for a wrong one', async () => {
    expect((await verify('churn', '2026-12')).code).to.equal(66);
    expect((await verify('nobody')).code).to.equal(66);
    expect((await verify('Churn!')).code).to.equal(2);
  });

  /** Changes the table by `sql` within this test only. */
  async function damaged(sql: string, undo: string): Promise<string> {
    await system.query(sql.replaceAll('PARTITION', partition));
    try {
      const { code, stdout } = await verify('churn', '2026-11');
      expect(code, sql).to.equal(65);
      expect(stdout).to.match(/^DIFFERS churn\/2026-11 revision 1: /);
      return stdout;
    } finally {
      await system.query(undo.replaceAll('PARTITION', partition));
    }
  }

  it('ends with 65 for every kind of difference, and names it', async () => {
    const differences: readonly [damage: string, undo: string, RegExp][] = [
      [
        `DELETE FROM PARTITION WHERE pk = '500'`,
        `INSERT INTO PARTITION (score, pk) VALUES (500, '500')`,
        /rows: 1000 loaded, 999 found/,
      ],
      [
        `INSERT INTO PARTITION (score, pk) SELECT 500, 'x' || n FROM generate_series(1, 3) n`,
        `DELETE FROM PARTITION WHERE pk LIKE 'x%'`,
        /1002 lines, 0 rejected: too few for 1003 rows/,
      ],
      [
        `UPDATE PARTITION SET score = 500.001 WHERE pk = '500'`,
        `UPDATE PARTITION SET score = 500 WHERE pk = '500'`,
        /sum \/ rows: 500\.5 loaded/,
      ],
      [
        `UPDATE PARTITION SET score = 1.5 WHERE pk = '1'`,
        `UPDATE PARTITION SET score = 1 WHERE pk = '1'`,
        /min: 1 loaded, 1\.5 found/,
      ],
      [
        `UPDATE PARTITION SET score = 1001 WHERE pk = '1000'`,
        `UPDATE PARTITION SET score = 1000 WHERE pk = '1000'`,
        /max: 1000 loaded, 1001 found/,
      ],
      [
        `UPDATE ingest.run_revision SET profile = NULL WHERE run_key = '2026-11'`,
        `UPDATE ingest.run_revision r SET profile = o.profile FROM ingest.run_revision o WHERE r.run_key = '2026-11' AND o.run_key = '2026-10'`,
        /no profile/,
      ],
    ];
    for (const [damage, undo, what] of differences) expect(await damaged(damage, undo)).to.match(what);
  });

  it('checks the key with amcheck where the extension is there and the login may use it', async () => {
    await system.query('CREATE EXTENSION amcheck');
    try {
      const { code, stdout, stderr } = await verify('churn');
      expect(code, stderr).to.equal(0);
      expect(stdout).to.match(/key by amcheck/);
      // A row that the index does not know: the catalog says for a moment that it has none.
      const stdoutOfDamage = await damaged(
        `UPDATE pg_index SET indisready = false, indislive = false WHERE indrelid = 'PARTITION'::regclass;
         INSERT INTO PARTITION (score, pk) VALUES (500, '500');
         UPDATE pg_index SET indisready = true, indislive = true WHERE indrelid = 'PARTITION'::regclass`,
        `DELETE FROM PARTITION WHERE ctid = (SELECT max(ctid) FROM PARTITION WHERE pk = '500')`,
      );
      expect(stdoutOfDamage).to.match(/damaged, says amcheck: /);
    } finally {
      await system.query('DROP EXTENSION amcheck');
    }
  });

  it('knows what was erased since the load', async () => {
    const keyFile = path.join(tmpdir(), `erase-${process.pid}.txt`);
    await writeFile(keyFile, '3\n400\nnobody\n');
    try {
      const erase = ['erase', '--model', 'churn', '--pk-file', keyFile, '--reason', 'asked for'];
      const { code, stderr } = await runProgram(erase);
      expect(code, stderr).to.equal(0);
    } finally {
      await rm(keyFile);
    }
    const { code, stdout } = await verify('churn');
    expect(code, stdout).to.equal(0);
    expect(stdout.match(/rows 998 \(2 erased\), [^\n]*, scores within 1 and 1000, /g)).to.have.length(2);
    expect(
      await damaged(
        `DELETE FROM PARTITION WHERE pk = '7'`,
        `INSERT INTO PARTITION (score, pk) VALUES (7, '7')`,
      ),
    ).to.match(/rows: 1000 loaded, 2 erased since, 997 found/);
  });
});
