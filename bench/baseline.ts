import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type BenchResult, measuresOf } from './bench-result.ts';
import { type Comparison, compare, TOLERANCE } from './compare.ts';
import type { Form } from './forms.ts';
import type { Measure } from './part-result.ts';
import { formatTable } from './table.ts';

const BASELINE = path.join(import.meta.dirname, 'baseline.json');

/** The committed measures of each form, and the commit that they were measured at. */
type Baseline = Partial<Record<Form, KeptForm>>;

interface KeptForm {
  readonly commit: string;
  readonly measures: readonly Measure[];
}

/** Makes this result what later ones are held against. */
export async function keepAsBaseline(result: BenchResult): Promise<void> {
  const baseline = await readBaseline();
  baseline[result.form] = { commit: result.commit, measures: measuresOf(result) };
  await writeFile(BASELINE, `${JSON.stringify(baseline, null, 2)}\n`);
  console.log(`The ${result.form} form is kept in bench/baseline.json; commit it.`);
}

/** @throws when nothing is kept of this form. */
export async function requireBaseline(form: Form): Promise<KeptForm> {
  const kept = (await readBaseline())[form];
  if (kept !== undefined) return kept;
  throw new Error(
    `bench/baseline.json has nothing of the ${form} form; keep a result with --keep-baseline FILE.`,
  );
}

/** Prints what has changed against the baseline of the same form. @returns whether nothing went worse. */
export async function checkAgainstBaseline(result: BenchResult): Promise<boolean> {
  const kept = await requireBaseline(result.form);
  const ran = new Set(result.parts.map(({ part }) => part));
  const compared = compare(
    kept.measures.filter(({ name }) => [...ran].some((part) => name.startsWith(part))),
    measuresOf(result),
  );
  console.log(`\n${formatTable(tableOf(compared, kept.commit))}`);
  const worse = compared.filter(({ verdict }) => verdict === 'worse');
  console.log(
    worse.length === 0
      ? `\nNothing went worse by more than ${TOLERANCE * 100} %.`
      : `\nWorse by more than ${TOLERANCE * 100} %:\n${worse.map(({ name }) => `  ${name}`).join('\n')}`,
  );
  return worse.length === 0;
}

function tableOf(compared: readonly Comparison[], commit: string) {
  return {
    title: `Against the baseline of ${commit}`,
    columns: ['what', 'baseline', 'now', 'verdict'],
    rows: compared.map(({ name, before, now, verdict }) => [
      name,
      before.toFixed(2),
      now === null ? '-' : now.toFixed(2),
      verdict,
    ]),
  };
}

async function readBaseline(): Promise<Baseline> {
  return JSON.parse(await readFile(BASELINE, 'utf8')) as Baseline;
}
