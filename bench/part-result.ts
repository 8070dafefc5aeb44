import { writeFile } from 'node:fs/promises';
import { formatTable, type Table } from './table.ts';

export const PARTS = ['load', 'upload', 'path', 'growth'] as const;
export type Part = (typeof PARTS)[number];

/** A figure that says the same on another machine: a ratio of two contenders of one run, or memory. */
export interface Measure {
  /** Says what is measured, and stays the same from run to run: baselines are compared by it. */
  readonly name: string;
  readonly value: number;
  readonly better: 'lower' | 'higher';
  /** What the product promises; null where nothing is promised. */
  readonly target: number | null;
}

/** What each part of the benchmark leaves behind it. */
export interface PartResult {
  readonly part: Part;
  readonly tables: readonly Table[];
  readonly measures: readonly Measure[];
  /** Every single figure, as it was measured. */
  readonly raw: unknown;
}

export async function report(result: PartResult, jsonPath: string | undefined): Promise<void> {
  for (const table of result.tables) console.log(`\n${formatTable(table)}`);
  if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify(result, null, 2)}\n`);
}
