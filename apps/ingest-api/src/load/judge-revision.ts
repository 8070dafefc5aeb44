import type { Contract, GateName, GateResult, RevisionProfile } from 'db-schema';
import { stabilityIndex } from 'score-lines';

export interface Judged {
  readonly profile: RevisionProfile;
  readonly rejectedLines: number;
  /** How the revision's rows fall into the bins that another one's deciles cut. */
  binShares(deciles: readonly number[]): readonly number[];
}

/**
 * Holds a loaded revision against the model's contract and the run that is published now. What the contract
 * does not ask for, or cannot be compared with anything, is not judged. The score shift is the population
 * stability index over the published run's deciles (docs/decisions/0030).
 */
export function judgeRevision(
  contract: Contract,
  { profile, rejectedLines, binShares }: Judged,
  published: RevisionProfile | null,
): GateResult[] {
  const results: GateResult[] = [];
  const judge = (
    gate: GateName,
    found: number | null,
    isBroken: (found: number, expected: number) => boolean,
  ) => {
    const expected = contract[gate];
    if (expected === undefined || found === null) return;
    results.push({ gate, expected, found, broken: isBroken(found, expected) });
  };
  judge('scoreMin', profile.min, isBelow);
  judge('scoreMax', profile.max, isAbove);
  judge('minRows', profile.rows, isBelow);
  judge('maxRejectedLines', rejectedLines, isAbove);
  if (published !== null) {
    judge(
      'maxRowChangePercent',
      rounded((100 * Math.abs(profile.rows - published.rows)) / published.rows),
      isAbove,
    );
    judge(
      'maxScoreShiftPsi',
      rounded(stabilityIndex(published.binShares, binShares(published.deciles))),
      isAbove,
    );
  }
  return results;
}

const isBelow = (found: number, expected: number) => found < expected;
const isAbove = (found: number, expected: number) => found > expected;

/** Six digits behind the point: nobody sets a limit finer than that, and people read it. */
function rounded(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}
