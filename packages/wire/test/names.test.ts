import { expect } from 'chai';
import { fileNameFault, isModelName, parseModelName, runKeyFault } from '../src/index.ts';

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

  it('never contains the character that separates it from a revision in the name of a partition', () => {
    expect(isModelName('churn$12')).to.equal(false);
  });
});

describe('a run key', () => {
  it('is 1 to 200 printable characters', () => {
    for (const key of [
      '2026-11',
      'scheduled__2026-11-01T00:00:00+00:00',
      'a/b',
      'März',
      'x'.repeat(200),
      '😀'.repeat(200),
    ])
      expect(runKeyFault(key), key).to.equal(null);
  });

  it('is refused with the rule and what was found', () => {
    expect(runKeyFault('')).to.include('found ""');
    expect(runKeyFault('.')).to.include('found "."');
    expect(runKeyFault('..')).to.include('found ".."');
    expect(runKeyFault('x'.repeat(201))).to.include('it has 201 characters');
    expect(runKeyFault('a\u202eb')).to.include('found "a\\u{202e}b"');
  });
});

describe('the name of a file', () => {
  it('must print, and must not contain a backslash', () => {
    expect(fileNameFault('scores 1.jsonl')).to.equal(null);
    for (const name of ['a\\b.jsonl', 'a\nb.jsonl', 'a\u200bb.jsonl'])
      expect(fileNameFault(name), JSON.stringify(name)).to.include('rename it');
  });
});
