import { EXIT_CODE_OF } from 'wire';
import { UploaderError } from '../errors.ts';
import {
  describeLoad,
  formatBytes,
  formatPercent,
  newRunView,
  type RunView,
  type Terminal,
} from '../progress/view.ts';
import {
  type CommandResult,
  describeBadLines,
  describeShown,
  errorOfState,
  settlementOf,
  WORD_OF,
} from '../results.ts';
import {
  findRun,
  listOverdue,
  listRuns,
  type OverdueRun,
  pageUrl,
  type Run,
  type RunSummary,
  rejectsUrl,
} from '../service/client.ts';
import type { Flags } from '../settings/settings.ts';
import { openServiceSession, type ServiceSession, waitForRun } from './session.ts';

/** `more`: the list ends at --limit, the runs do not. */
export type StatusResult = CommandResult & {
  runs: Array<Run | RunSummary>;
  more?: true;
  overdue?: OverdueRun[];
};
type StatusQuery = { model?: string | undefined; run?: string | undefined; wait: boolean } & {
  limit: number | undefined;
  state: string | undefined;
};

/** Without --wait the answer must be quick: a sensor asks again. */
const ONE_ANSWER = { ms: 60_000, over: 'Out of time: status without --wait ends after 60 s.' };
const SHOWN_RUNS = 50;

/** `uploader status [MODEL [RUN]]`. For one run the exit code says its state; 75: ask again. */
export async function status(
  { model, run, wait, limit, state }: StatusQuery,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<StatusResult> {
  if (run === undefined && wait) {
    throw new UploaderError(
      'usage',
      'status --wait waits for one run: name it, as in uploader status MODEL RUN --wait.',
    );
  }
  if (run !== undefined && (limit !== undefined || state !== undefined)) {
    throw new UploaderError(
      'usage',
      '--limit and --state are for lists of runs: leave them out when you name a run.',
    );
  }
  const session = openServiceSession(
    'status',
    flags,
    terminal,
    interrupt,
    model === undefined ? 'status' : run === undefined ? model : `${model}/${run}`,
    wait ? undefined : ONE_ANSWER,
  );
  const { service, retries, settings } = session;
  if (model === undefined || run === undefined) {
    const query = { model: model ?? null, state: state ?? null, limit: limit ?? SHOWN_RUNS };
    const { runs, more } = await listRuns(service, query, retries);
    session.print(runTable(runs));
    if (more) session.say(`These are the newest ${runs.length} runs. To list more: --limit N.`);
    const overdue =
      state === undefined
        ? (await listOverdue(service, retries)).filter((it) => model === undefined || it.model === model)
        : [];
    for (const it of overdue) session.say(describeOverdue(it));
    return {
      result: 'listed',
      exitCode: 0,
      runs,
      ...(more ? { more } : {}),
      ...(overdue.length > 0 ? { overdue } : {}),
    };
  }
  if (wait) {
    const named = { model, run, pollMs: settings.pollMs };
    return resultOfRun(await waitForRun(service, named, retries, session.say), session);
  }
  const found = await findRun(service, model, run, retries);
  if (found) return resultOfRun(found, session);
  const detail = `There is no run ${model}/${run} yet, or this token does not cover it.`;
  session.print(detail);
  return {
    result: 'try_again',
    exitCode: EXIT_CODE_OF.try_again,
    runs: [],
    error: { code: 'not_found', detail },
  };
}

/** Also prints it. */
export function resultOfRun(run: Run, session: ServiceSession): StatusResult {
  const view = newRunView(`${run.model}/${run.run}`, run.files.total);
  for (const line of describeBadLines(run, rejectsUrl(session.service, run.model, run.run)))
    session.say(line);
  session.print(`${describeOneRun(run, view)}\n  its page: ${pageUrl(session.service, run.model, run.run)}`);
  const { result, exitCode, error } = settlementOf(run, session.settings.requireShown);
  const isOver = result !== 'received';
  return {
    result: isOver ? result : WORD_OF[EXIT_CODE_OF.try_again],
    exitCode: isOver ? exitCode : EXIT_CODE_OF.try_again,
    runs: [run],
    ...(error ? { error } : {}),
  };
}

const HEADING = ['MODEL', 'RUN', 'REV', 'STATE', 'SHOWN', 'ROWS', 'SIZE', 'DECLARED', 'BY'];
const RIGHT_ALIGNED = new Set(['REV', 'ROWS', 'SIZE']);

/** A table in plain text, one run a line, so that grep and awk can read it. */
function runTable(runs: RunSummary[]): string {
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
    minute(run.declaredAt),
    run.pushedBy ?? '-',
  ];
}

function describeOverdue({ model, due, shown, newest }: OverdueRun): string {
  const readers = shown === null ? 'readers see no run yet' : `readers see ${shown.run}`;
  const later = newest === null ? '' : `; ${newest.run} is ${newest.state}`;
  return `${model}: overdue since ${minute(due.at)}: no run as of ${minute(due.as_of)} or later is published; ${readers}${later}`;
}

/** In UTC. */
function minute(instant: string): string {
  return `${instant.slice(0, 16).replace('T', ' ')}Z`;
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
function describeOneRun(run: Run, view: RunView): string {
  const { files, bytes } = run;
  const error = errorOfState(run);
  const lines = [
    `${view.label}: revision ${run.revision} ${run.state === 'failed' ? 'failed' : `is ${run.state}`}`,
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
