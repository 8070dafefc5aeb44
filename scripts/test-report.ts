// mocha's `spec` reporter, which also writes what each file passed, skipped and failed, for run.mjs: a run with
// `--parallel` has no other way to say which files failed.
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import Mocha from 'mocha';

export default class TestReport extends Mocha.reporters.Spec {
  constructor(runner: Mocha.Runner, options: Mocha.MochaOptions) {
    super(runner, options);
    const files: Record<string, { passed: number; skipped: number; failures: string[] }> = {};
    const resultsOf = ({ file }: { file?: string | undefined }) => {
      // A hook of mocha-fixture belongs to no file.
      const name = file === undefined ? 'every file' : relative(process.cwd(), file);
      files[name] ??= { passed: 0, skipped: 0, failures: [] };
      return files[name];
    };
    runner.on('pass', (test) => resultsOf(test).passed++);
    runner.on('pending', (test) => resultsOf(test).skipped++);
    runner.on('fail', (test, error: Error) => {
      resultsOf(test).failures.push(`${test.fullTitle()}: ${error.message}`);
    });
    runner.once('end', () => {
      if (process.env.TEST_REPORT !== undefined)
        writeFileSync(process.env.TEST_REPORT, JSON.stringify(files));
    });
  }
}
