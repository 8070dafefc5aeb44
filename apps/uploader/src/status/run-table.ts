import { describeLoad } from '../progress/describe-load.ts';
import { formatBytes, formatPercent } from '../progress/format.ts';
import type { RunView } from '../progress/push-view.ts';
import { describeShown, errorOfState } from '../push/outcome.ts';
import type { Run, RunSummary } from '../service/run-schema.ts';

const HEADING = ['MODEL', 'RUN', 'REV', 'STATE', 'SHOWN', 'ROWS', 'SIZE', 'DECLARED', 'BY'];
const RIGHT_ALIGNED = new Set(['REV', 'ROWS', 'SIZE']);

/** Runs as a table of plain text, one a line, so that grep and awk may read it too. */
export function runTable(runs: RunSummary[]): string {
  if (runs.length === 0) return 'There are no runs.';
  const lines = [HEADING, ...runs.map(cellsOf)];
  const widths = HEADING.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  const pad = (cell: string, column: number): string =>
    RIGHT_ALIGNED.has(HEADING[column] ?? '')
      ? cell.padStart(widths[column] ?? 0)
      : cell.padEnd(widths[column] ?? 0);
  return lines.map((line) => line.map(pad).join('  ').trimEnd()).join('\n');
}

function cellsOf(run: RunSummary): string[] {
  return [
    run.model,
    run.run,
    String(run.revision),
    `${run.state}${howFar(run)}`,
    seen(run),
    run.rows?.toLocaleString('en') ?? '-',
    formatBytes(run.bytes.total),
    `${run.declaredAt.slice(0, 16).replace('T', ' ')}Z`,
    run.pushedBy ?? '-',
  ];
}

/** What readers of the model see. */
function seen({ run, revision, shown }: RunSummary): string {
  if (shown === null) return 'no run';
  if (shown.run !== run) return shown.run;
  return shown.revision === revision ? 'this' : `revision ${shown.revision}`;
}

function howFar({ state, bytes, load }: RunSummary): string {
  if (state === 'receiving') return ` ${formatPercent(bytes.received, bytes.total)}`;
  if (state === 'loading' && load?.phase === 'copying') {
    return ` ${formatPercent(load.bytes ?? 0, bytes.total)}`;
  }
  return '';
}

function describeSeen(run: Run): string {
  const notShown = describeShown(run);
  if (notShown !== null) return notShown;
  const { model, shown } = run;
  if (shown === null) return `readers of scores.${model} see no run yet`;
  if (shown.run !== run.run) return `readers of scores.${model} see ${shown.run}`;
  return `readers of scores.${model} see ${shown.revision === run.revision ? 'this revision' : `revision ${shown.revision} of it`}`;
}

/** One run in a few lines. */
export function describeOneRun(run: Run, view: RunView): string {
  const { files, bytes } = run;
  const error = errorOfState(run);
  const lines = [
    `${view.label} revision ${run.revision}: ${run.state}`,
    `  ${files.received} of ${files.total} files, ${formatBytes(bytes.received)} of ${formatBytes(bytes.total)} received`,
    `  ${describeSeen(run)}`,
    ...(run.rows ? [`  ${run.rows.toLocaleString('en')} rows`] : []),
    ...(run.state === 'loading' && run.load ? [`  ${describeLoad(run.load, bytes.total)}`] : []),
    ...(run.load?.lastError && run.state !== 'published' ? [`  last load: ${run.load.lastError}`] : []),
    ...(error ? [`  ${error.detail}`] : []),
    ...(run.pushedBy ? [`  pushed by ${run.pushedBy}`] : []),
  ];
  return lines.join('\n');
}
