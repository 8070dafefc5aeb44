import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { cpus, release, totalmem } from 'node:os';
import { promisify } from 'node:util';
import { markdownTable } from 'markdown-table';

export const PARTS = ['load', 'upload', 'path', 'growth', 'read', 'link', 'history', 'partitions'] as const;
export type Part = (typeof PARTS)[number];
/** `short` takes ten minutes, `full` more than an hour. `smoke` is so small that it only shows that everything runs. */
export type Form = 'smoke' | 'short' | 'full';

/** One run of `npm run bench`. */
export interface BenchResult {
  readonly form: Form;
  readonly startedAt: string;
  readonly commit: string;
  readonly machine: Machine;
  readonly parts: readonly PartResult[];
}

export interface PartResult {
  readonly part: Part;
  readonly tables: readonly Table[];
  readonly measures: readonly Measure[];
  /** Every single figure, as measured. */
  readonly raw: unknown;
}

/** A figure that can be compared across machines: a ratio of two contenders of one run, or memory. */
export interface Measure {
  /** The same from run to run: baselines are compared by it. */
  readonly name: string;
  readonly value: number;
  readonly better: 'lower' | 'higher';
  /** What the product promises; null: nothing. */
  readonly target: number | null;
}

export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** What the reader must know about the figures, one sentence each. */
  readonly notes?: readonly string[];
}

/** What a reader must know to compare figures. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly postgres: string;
  /** null: psql is not installed. */
  readonly psql: string | null;
}

/** Prints the tables of one part, and writes its result when the command was given `--json`. */
export async function report(result: PartResult, jsonPath: string | undefined): Promise<void> {
  for (const table of result.tables) console.log(`\n${formatTable(table)}`);
  if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify(result, null, 2)}\n`);
}

export async function readBenchResult(path: string): Promise<BenchResult> {
  const result = JSON.parse(await readFile(path, 'utf8')) as Partial<BenchResult>;
  if (result.form === undefined || result.parts === undefined)
    throw new Error(`${path} is not a result of this benchmark. Name a JSON file of bench/results/.`);
  return result as BenchResult;
}

export function measuresOf({ parts }: BenchResult): Measure[] {
  return parts.flatMap(({ measures }) => measures);
}

/** The whole result as Markdown, for a terminal or a document. */
export function formatResult(result: BenchResult): string {
  return [
    `\`npm run bench${result.form === 'short' ? '' : ` -- --${result.form}`}\`, ${result.startedAt}, commit ${result.commit}`,
    formatMachine(result.machine),
    ...[targetsOf(result)].filter(({ rows }) => rows.length > 0).map(formatTable),
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

/** Markdown. Columns of figures are aligned to the right. */
export function formatTable({ title, columns, rows, notes = [] }: Table): string {
  const align = columns.map((_, at) => (rows.every((row) => /^[-\d]/.test(row[at] ?? '')) ? 'r' : null));
  return [`**${title}**`, markdownTable([columns, ...rows], { align }), ...notes].join('\n\n');
}

export function formatMachine(machine: Machine): string {
  return Object.entries(machine)
    .map(([name, value]) => `${name}: ${value ?? 'none'}`)
    .join('; ');
}

export async function describeMachine(postgresVersion: string): Promise<Machine> {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    kernel: release(),
    node: process.version,
    postgres: postgresVersion,
    psql: await psqlVersion(),
  };
}

async function psqlVersion(): Promise<string | null> {
  try {
    const { stdout } = await promisify(execFile)('psql', ['--version']);
    return stdout.trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

export function percentile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
