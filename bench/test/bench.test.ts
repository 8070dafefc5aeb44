import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { compare } from '../baseline.ts';
import { type Measure, measuresOf, PARTS, readBenchResult } from '../result.ts';

const MAIN = path.join(import.meta.dirname, '../main.ts');
/** It starts about twenty processes: seconds on an idle machine, minutes on a busy one. */
const WITHIN_MS = 240_000;

describe('npm run bench', () => {
  let results: string;

  before(async () => {
    results = await mkdtemp(path.join(tmpdir(), 'bench-results-'));
  });

  after(() => rm(results, { recursive: true, force: true }));

  it('runs every part with tiny sizes, and writes figures, tables and a chart', async function () {
    this.timeout(WITHIN_MS + 10_000);
    await promisify(execFile)(process.execPath, [MAIN, '--smoke', '--results', results], {
      env: { ...process.env, BENCH_SERVER_URL: process.env.TEST_DATABASE_URL },
      timeout: WITHIN_MS,
    });
    const names = (await readdir(results)).sort();
    expect(names.map((name) => name.replace(/^.*-smoke/, ''))).to.deep.equal(['-growth.svg', '.json', '.md']);
    const [svg = '', json = '', markdown = ''] = names.map((name) => path.join(results, name));
    const result = await readBenchResult(json);
    expect([...new Set(result.parts.map(({ part }) => part))]).to.have.members(PARTS);
    for (const { part, measures, tables } of result.parts)
      expect([...measures, ...tables], part).not.to.be.empty;
    for (const { name, value } of measuresOf(result)) expect(value, name).to.be.greaterThan(0);
    for (const { tables } of result.parts)
      for (const { title } of tables) expect(await readFile(markdown, 'utf8')).to.include(title);
    expect(await readFile(svg, 'utf8')).to.match(/^<svg [\s\S]*million rows[\s\S]*<\/svg>\s*$/);
  });
});

describe('compare', () => {
  it('reports a change within the tolerance as the same', () => {
    expect(verdictOf(measure(1), measure(1.09))).to.equal('same');
    expect(verdictOf(measure(1), measure(0.92))).to.equal('same');
  });

  it('reports a longer time as worse, and a shorter one as better', () => {
    expect(verdictOf(measure(1), measure(1.2))).to.equal('worse');
    expect(verdictOf(measure(1), measure(0.8))).to.equal('better');
  });

  it('reports a lower throughput as worse, and a higher one as better', () => {
    expect(verdictOf(measure(1, 'higher'), measure(0.8, 'higher'))).to.equal('worse');
    expect(verdictOf(measure(1, 'higher'), measure(1.3, 'higher'))).to.equal('better');
  });

  it('reports a measure that the result lacks as missing, and ignores new ones', () => {
    const compared = compare([measure(1)], [measure(1, 'lower', 'another')]);
    expect(compared).to.deep.equal([{ name: 'load', before: 1, now: null, verdict: 'missing' }]);
  });

  it('reports a figure that was not measured as worse', () => {
    const asWritten: Measure = JSON.parse(JSON.stringify(measure(Number.NaN)));
    expect(verdictOf(measure(1), asWritten)).to.equal('worse');
  });
});

function measure(value: number, better: Measure['better'] = 'lower', name = 'load'): Measure {
  return { name, value, better, target: null };
}

function verdictOf(before: Measure, now: Measure): string | undefined {
  return compare([before], [now], 0.1).at(0)?.verdict;
}
