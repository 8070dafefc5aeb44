import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type BenchResult, type Form, formatTable, type Measure, measuresOf } from './result.ts';

const BASELINE = path.join(import.meta.dirname, 'baseline.json');

/** Figures of the same code differ by this share from run to run on one machine. A smaller change is not reported. */
const TOLERANCE = 0.15;

/** The committed measures of each form, and the commit at which they were measured. */
type Baseline = Partial<Record<Form, FormBaseline>>;

interface FormBaseline {
  readonly commit: string;
  readonly measures: readonly Measure[];
}

/** Makes this result the baseline of its form. */
export async function keepAsBaseline(result: BenchResult): Promise<void> {
  const baseline = await readBaseline();
  baseline[result.form] = { commit: result.commit, measures: measuresOf(result) };
  await writeFile(BASELINE, `${JSON.stringify(baseline, null, 2)}\n`);
  console.log(`bench/baseline.json has a new baseline of the ${result.form} form; commit it.`);
}

/** @throws when the form has no baseline. */
export async function requireBaseline(form: Form): Promise<FormBaseline> {
  const kept = (await readBaseline())[form];
  if (kept !== undefined) return kept;
  throw new Error(
    `bench/baseline.json has no baseline of the ${form} form. Add one with --keep-baseline FILE.`,
  );
}

async function readBaseline(): Promise<Baseline> {
  return JSON.parse(await readFile(BASELINE, 'utf8')) as Baseline;
}

/** Prints the changes against the baseline of the same form. @returns whether no measure is worse. */
export async function checkAgainstBaseline(result: BenchResult): Promise<boolean> {
  const kept = await requireBaseline(result.form);
  const ran = new Set(result.parts.map(({ part }) => part));
  const compared = compare(
    kept.measures.filter(({ name }) => [...ran].some((part) => name.startsWith(part))),
    measuresOf(result),
  );
  const table = {
    title: `Against the baseline of ${kept.commit}`,
    columns: ['what', 'baseline', 'now', 'verdict'],
    rows: compared.map(({ name, before, now, verdict }) => [
      name,
      before.toFixed(2),
      now === null ? '-' : now.toFixed(2),
      verdict,
    ]),
  };
  const worse = compared.filter(({ verdict }) => verdict === 'worse').map(({ name }) => `\n  ${name}`);
  console.log(`\n${formatTable(table)}`);
  console.log(
    worse.length === 0
      ? `\nNo measure is worse by more than ${TOLERANCE * 100} %.`
      : `\nWorse by more than ${TOLERANCE * 100} %:${worse.join('')}`,
  );
  return worse.length === 0;
}

interface Comparison {
  readonly name: string;
  readonly before: number;
  /** null: this result does not have the measure. */
  readonly now: number | null;
  readonly verdict: 'worse' | 'better' | 'same' | 'missing';
}

/** Compares the measures of a baseline with those of a result. Measures that only the result has are left out. */
export function compare(
  baseline: readonly Measure[],
  now: readonly Measure[],
  tolerance: number = TOLERANCE,
): Comparison[] {
  const byName = new Map(now.map((measure) => [measure.name, measure.value]));
  return baseline.map(({ name, value: before, better }) => {
    const value = byName.get(name);
    if (value === undefined) return { name, before, now: null, verdict: 'missing' };
    // JSON turns NaN into null, and null / 1 is 0: without this, a figure that was not measured would count as good.
    const found = Number.isFinite(value) ? value : Number.NaN;
    const change = better === 'lower' ? found / before : before / found;
    if (!(change <= 1 + tolerance)) return { name, before, now: value, verdict: 'worse' };
    return { name, before, now: value, verdict: change < 1 - tolerance ? 'better' : 'same' };
  });
}
