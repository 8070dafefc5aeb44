import { expect } from 'chai';
import { isModelName, parseModelName, partitionOf } from '../src/index.ts';

describe('a model name', () => {
  it('is a lower-case letter and up to 47 more letters, digits and underscores', () => {
    for (const name of ['a', 'churn', 'churn_v2', 'x'.repeat(48), 'select'])
      expect(isModelName(name), name).to.equal(true);
  });

  it('is nothing that could mean something else in SQL, a path or an address', () => {
    const others = [
      '',
      'Churn',
      '1st',
      '_x',
      'x'.repeat(49),
      'a-b',
      'a.b',
      'a"b',
      "a'b",
      'a;b',
      'a b',
      'a/b',
      'ä',
      'a\n',
      'a\0',
    ];
    for (const name of others) {
      expect(isModelName(name), JSON.stringify(name)).to.equal(false);
      expect(() => parseModelName(name)).to.throw(RangeError, 'is not a model name');
    }
  });

  it('never shares the name of a partition with another model', () => {
    expect(partitionOf(parseModelName('churn'), 12)).to.equal('run_data."churn$12"');
    expect(isModelName('churn$12')).to.equal(false);
  });
});
