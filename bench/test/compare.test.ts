import { expect } from 'chai';
import { compare } from '../compare.ts';
import type { Measure } from '../part-result.ts';

function measure(value: number, better: Measure['better'] = 'lower', name = 'load'): Measure {
  return { name, value, better, target: null };
}

function verdictOf(before: Measure, now: Measure): string | undefined {
  return compare([before], [now], 0.1).at(0)?.verdict;
}

describe('compare', () => {
  it('takes what stays within the tolerance for the same', () => {
    expect(verdictOf(measure(1), measure(1.09))).to.equal('same');
    expect(verdictOf(measure(1), measure(0.92))).to.equal('same');
  });

  it('calls a time that grew worse, and one that fell better', () => {
    expect(verdictOf(measure(1), measure(1.2))).to.equal('worse');
    expect(verdictOf(measure(1), measure(0.8))).to.equal('better');
  });

  it('calls a throughput that fell worse, and one that grew better', () => {
    expect(verdictOf(measure(1, 'higher'), measure(0.8, 'higher'))).to.equal('worse');
    expect(verdictOf(measure(1, 'higher'), measure(1.3, 'higher'))).to.equal('better');
  });

  it('says of a measure that is not there any more that it is missing, and passes over new ones', () => {
    const compared = compare([measure(1)], [measure(1, 'lower', 'another')]);
    expect(compared).to.deep.equal([{ name: 'load', before: 1, now: null, verdict: 'missing' }]);
  });

  it('calls a figure worse that could not be had', () => {
    const asWritten: Measure = JSON.parse(JSON.stringify(measure(Number.NaN)));
    expect(verdictOf(measure(1), asWritten)).to.equal('worse');
  });
});
