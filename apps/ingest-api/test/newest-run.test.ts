import { expect } from 'chai';
import { isNewer } from '../src/load/publish-revision.ts';

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

  it('is the one declared later when two have the same date', () => {
    expect(isNewer(revision(11, 'other', 1, '2026-11-01'), november)).to.equal(true);
    expect(isNewer(revision(9, 'other', 1, '2026-11-01'), november)).to.equal(false);
  });

  it('is replaced by a new revision of itself, whatever its date, and not by an old one', () => {
    expect(isNewer(revision(11, 'november', 3, '2026-10-01'), november)).to.equal(true);
    expect(isNewer(revision(8, 'november', 1, '2026-12-01'), november)).to.equal(false);
  });
});
