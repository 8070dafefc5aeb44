import { expect } from 'chai';
import { dateInRunKey, isNewer } from '../src/runs/revisions.ts';

describe('the run that readers see', () => {
  const revision = (revisionId: number, run: string, revision: number, asOf: string) => ({
    revisionId,
    run,
    revision,
    asOf: new Date(asOf),
  });
  const november = revision(10, 'november', 2, '2026-11-01');

  it('moves forward to a later date, and never back to an earlier one', () => {
    expect(isNewer(revision(11, 'december', 1, '2026-12-01'), november)).to.equal(true);
    expect(isNewer(revision(11, 'october', 1, '2026-10-01'), november)).to.equal(false);
  });

  it('is the one whose key is later in natural order when two have the same date, whoever was declared first', () => {
    expect(
      isNewer(revision(9, 'part 10', 1, '2026-11-01'), revision(10, 'part 9', 1, '2026-11-01')),
    ).to.equal(true);
    expect(
      isNewer(revision(11, 'part 9', 1, '2026-11-01'), revision(10, 'part 10', 1, '2026-11-01')),
    ).to.equal(false);
  });

  it('is the one declared later when two keys are equal in natural order', () => {
    expect(
      isNewer(revision(11, 'part 09', 1, '2026-11-01'), revision(10, 'part 9', 1, '2026-11-01')),
    ).to.equal(true);
    expect(
      isNewer(revision(9, 'part 09', 1, '2026-11-01'), revision(10, 'part 9', 1, '2026-11-01')),
    ).to.equal(false);
  });

  it('is replaced by a new revision of itself, whatever its date, and not by an old one', () => {
    expect(isNewer(revision(11, 'november', 3, '2026-10-01'), november)).to.equal(true);
    expect(isNewer(revision(8, 'november', 1, '2026-12-01'), november)).to.equal(false);
  });
});

describe('the date that a run key states', () => {
  const DATES: readonly [key: string, date: string][] = [
    ['2026-11', '2026-11-01T00:00:00.000Z'],
    ['2026-11-03', '2026-11-03T00:00:00.000Z'],
    ['dt=2026-11-03', '2026-11-03T00:00:00.000Z'],
    ['month=2026-11', '2026-11-01T00:00:00.000Z'],
    ['scheduled__2026-11-01T00:00:00+00:00', '2026-11-01T00:00:00.000Z'],
    ['manual__2026-11-01T12:34:56.789012+00:00', '2026-11-01T12:34:56.789Z'],
    ['scheduled__2026-11-01T01:00:00+02:00', '2026-10-31T23:00:00.000Z'],
    ['scheduled__2026-11-01T01:00:00-0330', '2026-11-01T04:30:00.000Z'],
    ['2026-11-01T06:00Z', '2026-11-01T06:00:00.000Z'],
    ['2026-11-01 06:00:01', '2026-11-01T06:00:01.000Z'],
    ['20261103', '2026-11-03T00:00:00.000Z'],
    ['run_20261103', '2026-11-03T00:00:00.000Z'],
    ['20261103T060000', '2026-11-03T06:00:00.000Z'],
    ['20261103T060000.5+0100', '2026-11-03T05:00:00.500Z'],
    ['churn 2026-02 v2', '2026-02-01T00:00:00.000Z'],
    ['2024-02-29', '2024-02-29T00:00:00.000Z'],
    ['0001-01', '0001-01-01T00:00:00.000Z'],
    ['9999-12-31', '9999-12-31T00:00:00.000Z'],
  ];
  for (const [key, date] of DATES) {
    it(`reads ${key}`, () => expect(dateInRunKey(key)?.toISOString()).to.equal(date));
  }

  const NONE = [
    'latest',
    '2026',
    '2026-13',
    '2026-00',
    '2026-02-30',
    '2025-02-29',
    '20261301',
    '202611031',
    'x20261103',
    'v2026-11',
    '2026-111',
    '2026-11-031',
    '2026-W45',
    '12026-11',
    '2026-11-03-04',
    '3f2a1234-10ab-4c5d',
    '2026-11-03T25:00:00',
    '2026-11-03T10:60:00',
    'ˈ2026‑11', // a hyphen that is not the ASCII one
  ];
  for (const key of NONE) {
    it(`finds none in ${key}`, () => expect(dateInRunKey(key)).to.equal(undefined));
  }
});
