import { expect } from 'chai';
import { CopyRows } from '../src/copy-rows.ts';
import { createScoreLineScanner, ScoreProfile, stabilityIndex } from '../src/index.ts';
import { numberOf } from '../src/numbers.ts';
import { writeUsualLines } from '../src/usual-lines.ts';
import { createRandom, testSeed } from './random.ts';

function profileOf(scores: readonly (number | string)[], linesAChunk = 1000): ScoreProfile {
  const profile = new ScoreProfile();
  const scanner = createScoreLineScanner({
    profile,
    onReject: ({ detail }) => {
      throw new Error(detail);
    },
  });
  for (let start = 0; start < scores.length; start += linesAChunk) {
    const lines = scores
      .slice(start, start + linesAChunk)
      .map((score, n) => `{"pk":${start + n},"score":${score}}\n`);
    scanner.scan(Buffer.from(lines.join('')));
  }
  scanner.finish();
  return profile;
}

/** Normally distributed, by Box and Muller. */
function normalScores(count: number, mean: number, stddev: number, seed: number): number[] {
  const random = createRandom(seed);
  const unit = () => (random.int(1_000_000) + 1) / 1_000_001;
  return Array.from(
    { length: count },
    () => mean + stddev * Math.sqrt(-2 * Math.log(unit())) * Math.cos(2 * Math.PI * unit()),
  );
}

/** The score as the fast path and the exact path read it. */
function readNumbers(text: string): [number | undefined, number] {
  const rows = new CopyRows();
  const line = Buffer.from(`{"pk":1,"score":${text}}\n`);
  writeUsualLines(line, 0, line.length, rows, 1000);
  return [rows.scoreCount === 0 ? undefined : rows.scores[0], numberOf(Buffer.from(text), 0, text.length)];
}

describe('the profile of scores', () => {
  it('agrees with sorting and summing them all: moments exactly, deciles within 0.1 %', () => {
    const seed = testSeed();
    const scores = [...normalScores(20_000, 500, 120, seed), ...normalScores(20_000, -3, 1, seed + 1)];
    const sorted = [...scores].sort((a, b) => a - b);
    const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
    const variance = scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length;
    const summary = profileOf(scores).summary;
    expect(summary.rows).to.equal(scores.length);
    expect(summary.min).to.be.closeTo(sorted[0] ?? Number.NaN, 1e-12);
    expect(summary.max).to.be.closeTo(sorted.at(-1) ?? Number.NaN, 1e-9);
    expect(summary.mean).to.be.closeTo(mean, 1e-9);
    expect(summary.stddev).to.be.closeTo(Math.sqrt(variance), 1e-9);
    for (const [index, decile] of summary.deciles.entries()) {
      const exact = sorted[Math.ceil(((index + 1) * scores.length) / 10) - 1] ?? Number.NaN;
      expect(Math.abs(decile - exact), `decile ${index + 1}`).to.be.at.most(Math.abs(exact) / 1000);
    }
    for (const share of summary.binShares) expect(share).to.be.closeTo(0.1, 0.005);
  });

  it('reads each number as JavaScript does, up to 15 digits, however it is written', () => {
    const random = createRandom(testSeed());
    for (let round = 0; round < 5_000; round += 1) {
      const digits = String(random.int(2 ** 31)) + String(random.int(1_000_000));
      const point = random.int(digits.length);
      const whole = String(Number(digits.slice(0, point)));
      const score = `${random.chance(0.5) ? '-' : ''}${whole}.${digits.slice(point, point + 15 - whole.length) || '0'}`;
      expect(readNumbers(score), score).to.deep.equal([Number(score), Number(score)]);
      const exponent = `${score}e-${random.int(30)}`;
      expect(readNumbers(exponent), exponent).to.deep.equal([undefined, Number(exponent)]);
    }
  });

  it('reads longer numbers to two units in the last place, and never across a short bound', () => {
    const random = createRandom(testSeed());
    for (let round = 0; round < 5_000; round += 1) {
      const text = (random.int(1_000_000_007) / 1_000_000_007 / 3).toFixed(17 + random.int(4));
      for (const found of readNumbers(text)) {
        expect(Math.abs((found ?? Number.NaN) - Number(text)), text).to.be.at.most(Number(text) * 2 ** -51);
      }
    }
    expect(profileOf(['0.99999999999999999']).summary.max).to.be.at.most(1);
    expect(profileOf(['0.30000000000000000000']).summary.max).to.equal(0.3);
    expect(profileOf(['0.29999999999999999999']).summary.max).to.be.at.most(0.3);
  });

  it('gives whole numbers up to 1,024 as they are', () => {
    const scores = Array.from({ length: 1000 }, (_, score) => score + 1);
    expect(profileOf(scores).summary.deciles).to.deep.equal([100, 200, 300, 400, 500, 600, 700, 800, 900]);
    expect(profileOf(scores.map((score) => -score)).summary.deciles.at(0)).to.equal(-901);
  });

  it('handles no row, one row, one value, and numbers whose sum overflows', () => {
    expect(new ScoreProfile().summary).to.deep.include({ rows: 0, min: null, mean: null, deciles: [] });
    expect(profileOf([5]).summary).to.deep.include({ rows: 1, min: 5, max: 5, mean: 5, stddev: 0 });
    expect(profileOf([0, 0, 0, 0]).summary.binShares).to.deep.equal([1, 0]);
    expect(profileOf(['1e308', '1.1e308', '1.2e308']).summary).to.deep.include({ max: 1.2e308, mean: null });
  });

  it('does not depend on how the file is cut', () => {
    const scores = normalScores(5_000, 0.5, 0.1, 7);
    const whole = profileOf(scores, 5_000).summary;
    const cut = profileOf(scores, 7).summary;
    expect(cut.deciles).to.deep.equal(whole.deciles);
    expect(cut.stddev).to.be.closeTo(whole.stddev ?? Number.NaN, 1e-12);
  });
});

describe('the population stability index', () => {
  const before = profileOf(normalScores(50_000, 500, 100, 1));
  const { deciles, binShares } = before.summary;
  const shiftTo = (profile: ScoreProfile) => stabilityIndex(binShares, profile.binShares(deciles));

  it('is 0 against itself, small for another sample, and large for another population', () => {
    expect(shiftTo(before)).to.equal(0);
    expect(shiftTo(profileOf(normalScores(50_000, 500, 100, 2)))).to.be.below(0.01);
    // Two normal distributions that lie one standard deviation apart: 1 by its definition, slightly less by deciles.
    expect(shiftTo(profileOf(normalScores(50_000, 600, 100, 3)))).to.be.within(0.8, 1.1);
  });

  it('sees a mass that moves within equal deciles, and stays finite for an empty bin', () => {
    const zeros = profileOf([...Array<number>(900).fill(0), ...Array<number>(100).fill(1)]);
    const ones = profileOf([...Array<number>(100).fill(0), ...Array<number>(900).fill(1)]);
    const shares = zeros.summary.binShares;
    const shift = stabilityIndex(shares, ones.binShares(zeros.summary.deciles));
    expect(shift).to.be.closeTo(2 * 0.8 * Math.log(9), 1e-9);
    const far = profileOf([5, 6, 7]);
    expect(stabilityIndex(shares, far.binShares(zeros.summary.deciles))).to.be.within(5, 20);
  });
});
