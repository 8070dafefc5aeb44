import { type CommandResult, WORD_OF } from '../command-result.ts';
import { EXIT_CODE_OF } from '../exit-codes.ts';
import { newRunView } from '../progress/push-view.ts';
import { describeBadLines, settlementOf } from '../push/outcome.ts';
import { findRun } from '../service/find-run.ts';
import type { Run, RunSummary } from '../service/run-schema.ts';
import { listRuns, rejectsUrl } from '../service/service-client.ts';
import { waitForRun } from '../service/wait-for-run.ts';
import type { Flags } from '../settings/load-settings.ts';
import { describeOneRun, runTable } from '../status/run-table.ts';
import type { Terminal } from '../terminal.ts';
import { UploaderError } from '../uploader-error.ts';
import { openServiceSession, type ServiceSession } from './service-session.ts';

/** `more`: the list ends at --limit, the runs do not. */
export type StatusResult = CommandResult & { runs: Array<Run | RunSummary>; more?: true };
export type StatusQuery = { model?: string | undefined; run?: string | undefined; wait: boolean } & {
  limit: number | undefined;
  state: string | undefined;
};

/** One look must not take long: a sensor comes again. */
const ONE_LOOK_MS = 60_000;
const SHOWN_RUNS = 50;

/** `uploader status [MODEL [RUN]]`. Of one run the exit code says how it stands; 75: ask again. */
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
      '--limit and --state choose from a list, and one run is named: leave them out.',
    );
  }
  const longestMs = wait ? Number.POSITIVE_INFINITY : ONE_LOOK_MS;
  const session = openServiceSession(flags, terminal, interrupt, longestMs);
  const { service, retries, settings } = session;
  if (model === undefined || run === undefined) {
    const query = { model: model ?? null, state: state ?? null, limit: limit ?? SHOWN_RUNS };
    const { runs, more } = await listRuns(service, query, retries);
    session.print(runTable(runs));
    if (more) session.say(`These are the newest ${runs.length}; there are more: --limit N shows N of them.`);
    return { result: 'listed', exitCode: 0, runs, ...(more ? { more } : {}) };
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
  session.print(describeOneRun(run, view));
  const { result, exitCode, error } = settlementOf(run, session.settings.requireShown);
  const isOver = result !== 'received';
  return {
    result: isOver ? result : WORD_OF[EXIT_CODE_OF.try_again],
    exitCode: isOver ? exitCode : EXIT_CODE_OF.try_again,
    runs: [run],
    ...(error ? { error } : {}),
  };
}
