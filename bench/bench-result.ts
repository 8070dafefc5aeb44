import { readFile } from 'node:fs/promises';
import type { Form } from './forms.ts';
import type { Machine } from './machine.ts';
import type { Measure, PartResult } from './part-result.ts';
import { formatTable, type Table } from './table.ts';

/** One run of `npm run bench`. */
export interface BenchResult {
  readonly form: Form;
  readonly startedAt: string;
  readonly commit: string;
  readonly machine: Machine;
  readonly parts: readonly PartResult[];
}

export async function readBenchResult(path: string): Promise<BenchResult> {
  const result = JSON.parse(await readFile(path, 'utf8')) as Partial<BenchResult>;
  if (result.form === undefined || result.parts === undefined)
    throw new Error(`${path} is no result of this benchmark; they are written to bench/results/.`);
  return result as BenchResult;
}

export function measuresOf({ parts }: BenchResult): Measure[] {
  return parts.flatMap(({ measures }) => measures);
}

/** All of it as Markdown, to be read in a terminal or pasted into a document. */
export function formatResult(result: BenchResult): string {
  const machine = Object.entries(result.machine).map(([name, value]) => `${name}: ${value ?? 'none'}`);
  return [
    `\`npm run bench${result.form === 'short' ? '' : ` -- --${result.form}`}\`, ${result.startedAt}, commit ${result.commit}`,
    machine.join('; '),
    formatTable(targetsOf(result)),
    ...result.parts.flatMap(({ tables }) => tables.map(formatTable)),
  ].join('\n\n');
}

function targetsOf(result: BenchResult): Table {
  const promised = measuresOf(result).filter(({ target }) => target !== null);
  return {
    title: 'Target against measured',
    columns: ['what', 'target', 'measured', 'met'],
    rows: promised.map(({ name, value, better, target }) => [
      name,
      `${better === 'lower' ? 'at most' : 'at least'} ${target}`,
      value > 10 ? value.toFixed(0) : value.toFixed(2),
      (better === 'lower' ? value <= (target ?? 0) : value >= (target ?? 0)) ? 'yes' : 'no',
    ]),
  };
}
