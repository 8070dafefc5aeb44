import { expect } from 'chai';
import { describeGate } from '../src/index.ts';

describe('a gate in words', () => {
  const sentenceOf = (gate: string, expected: unknown, found: unknown) =>
    describeGate({ gate, expected, found, broken: true }).sentence;

  it('says what was found and what the contract wants, for each gate', () => {
    expect(sentenceOf('scoreMin', 0, -1.5)).to.equal(
      'lowest score is -1.5; the contract requires at least 0',
    );
    expect(sentenceOf('scoreMax', 100, 101)).to.equal('highest score is 101; the contract allows 100');
    expect(sentenceOf('minRows', 100_000, 49)).to.equal(
      'the run has 49 rows; the contract requires at least 100,000',
    );
    expect(sentenceOf('maxRowChangePercent', 10, 68.965517)).to.equal(
      'row count changed by 68.97 %; the contract allows 10 %',
    );
    expect(sentenceOf('maxScoreShiftPsi', 0.2, 0.3141)).to.equal(
      'score distribution shifted by 0.31 (PSI); the contract allows 0.2',
    );
    expect(sentenceOf('maxRejectedLines', 10, 12)).to.equal('rejected lines: 12; the contract allows 10');
  });

  it('is not rounded to the limit itself, and an unknown gate keeps its name', () => {
    expect(sentenceOf('maxRowChangePercent', 10, 10.000001)).to.include('changed by 10.000001 %');
    expect(sentenceOf('medianMin', 3, null)).to.equal('medianMin is null; the contract says 3');
  });
});
