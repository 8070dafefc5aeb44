/** By the names of the contract; one that is newer than this page shows its own. */
const GATES: Readonly<Record<string, string>> = {
  scoreMin: 'No score below',
  scoreMax: 'No score above',
  minRows: 'Rows at least',
  maxRowChangePercent: 'Change of rows, at most %',
  maxScoreShiftPsi: 'Shift of the scores, at most (PSI)',
  maxRejectedLines: 'Rejected lines, at most',
};

export function nameOfGate(gate: string): string {
  return GATES[gate] ?? gate;
}

interface GateResult {
  readonly gate: string;
  readonly expected?: unknown;
  readonly found?: unknown;
}

export function describeGate({ gate, expected, found }: GateResult): string {
  return `${nameOfGate(gate)}: ${JSON.stringify(expected)}. Found: ${JSON.stringify(found)}.`;
}
