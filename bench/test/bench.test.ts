import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { measuresOf, readBenchResult } from '../bench-result.ts';
import { PARTS } from '../part-result.ts';

const MAIN = path.join(import.meta.dirname, '../main.ts');
/** It starts some twenty processes: seconds on a quiet machine, minutes on a busy one. */
const WITHIN_MS = 240_000;

describe('npm run bench', () => {
  let results: string;

  before(async () => {
    results = await mkdtemp(path.join(tmpdir(), 'bench-results-'));
  });

  after(() => rm(results, { recursive: true, force: true }));

  it('runs every part with tiny sizes, and leaves figures, tables and a chart', async function () {
    this.timeout(WITHIN_MS + 10_000);
    await promisify(execFile)(process.execPath, [MAIN, '--smoke', '--results', results], {
      env: { ...process.env, BENCH_SERVER_URL: process.env.TEST_DATABASE_URL },
      timeout: WITHIN_MS,
    });
    const names = (await readdir(results)).sort();
    expect(names.map((name) => name.replace(/^.*-smoke/, ''))).to.deep.equal(['-growth.svg', '.json', '.md']);
    const [svg = '', json = '', markdown = ''] = names.map((name) => path.join(results, name));
    const result = await readBenchResult(json);
    expect(result.parts.map(({ part }) => part)).to.have.members(PARTS);
    for (const { part, measures } of result.parts) expect(measures, part).not.to.be.empty;
    for (const { name, value } of measuresOf(result)) expect(value, name).to.be.greaterThan(0);
    for (const { tables } of result.parts)
      for (const { title } of tables) expect(await readFile(markdown, 'utf8')).to.include(title);
    expect(await readFile(svg, 'utf8')).to.match(/^<svg [\s\S]*million rows[\s\S]*<\/svg>\s*$/);
  });
});
