/**
 * The quality gates in words: for the uploader's messages, the service's errors and the status page. (The page loads this
 * file by itself, so it imports nothing at run time.)
 */
import type { Run } from './run.ts';

type GateResult = NonNullable<Run['gates']>[number];

interface GateWords {
  readonly name: string;
  /** Before the number of the contract. */
  readonly limit: 'at least' | 'at most';
  format(value: number): string;
  /** What was found, as the first half of a sentence. */
  found(value: string): string;
}

const GATES: Readonly<Record<string, GateWords>> = {
  scoreMin: {
    name: 'Lowest score',
    limit: 'at least',
    format: String,
    found: (score) => `lowest score is ${score}`,
  },
  scoreMax: {
    name: 'Highest score',
    limit: 'at most',
    format: String,
    found: (score) => `highest score is ${score}`,
  },
  minRows: {
    name: 'Rows',
    limit: 'at least',
    format: withCommas,
    found: (rows) => `the run has ${rows} rows`,
  },
  maxRowChangePercent: {
    name: 'Change in row count',
    limit: 'at most',
    format: (share) => `${share} %`,
    found: (share) => `row count changed by ${share}`,
  },
  maxScoreShiftPsi: {
    name: 'Shift of the score distribution (PSI)',
    limit: 'at most',
    format: String,
    found: (psi) => `score distribution shifted by ${psi} (PSI)`,
  },
  maxRejectedLines: {
    name: 'Rejected lines',
    limit: 'at most',
    format: withCommas,
    found: (lines) => `rejected lines: ${lines}`,
  },
};

/** A gate of a contract in words; undefined when the field of the contract is no gate. */
export function describeLimit(gate: string, expected: unknown): { name: string; limit: string } | undefined {
  const known = GATES[gate];
  if (known === undefined || typeof expected !== 'number') return undefined;
  return { name: known.name, limit: `${known.limit} ${known.format(expected)}` };
}

/** A result of a gate, as the cells of a table and as a sentence without its stop. An unknown gate keeps its name. */
export function describeGate({ gate, expected, found }: GateResult) {
  const known = GATES[gate];
  if (known === undefined || typeof expected !== 'number' || typeof found !== 'number') {
    const [limit, value] = [JSON.stringify(expected), JSON.stringify(found)];
    return { name: gate, limit, found: value, sentence: `${gate} is ${value}; the contract says ${limit}` };
  }
  // Rounded, unless that would hide by how little the limit is exceeded.
  const rounded = Math.abs(found - expected) < 0.01 ? found : Number(found.toFixed(2));
  const [limit, value] = [known.format(expected), known.format(rounded)];
  const verb = known.limit === 'at most' ? 'allows' : 'requires at least';
  return {
    name: known.name,
    limit: `${known.limit} ${limit}`,
    found: value,
    sentence: `${known.found(value)}; the contract ${verb} ${limit}`,
  };
}

function withCommas(value: number): string {
  return value.toLocaleString('en');
}
