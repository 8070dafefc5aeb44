import { EXIT_CODE_OF } from 'wire';
import { UploaderError } from '../errors.ts';
import { refusalOf } from '../http/verdict.ts';
import { formatCount, type Terminal } from '../progress/view.ts';
import type { CommandResult } from '../results.ts';
import {
  findRun,
  getModel,
  type Model,
  type Publication,
  publishRun,
  type Run,
  retryRun,
  withdrawRun,
} from '../service/client.ts';
import type { Flags } from '../settings/settings.ts';
import { openServiceSession, type ServiceSession, waitForRun } from './session.ts';
import { resultOfRun, type StatusResult } from './status.ts';

type RetryRequest = { model: string; run: string; reason: string | undefined };

/** `uploader retry MODEL RUN`: makes the service load a failed run again, and waits for its end. */
export async function retry(
  request: RetryRequest,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<StatusResult> {
  const session = openServiceSession('retry', flags, terminal, interrupt, `${request.model}/${request.run}`);
  const { service, retries, settings, say } = session;
  const queued = await actOnRun(request, session, () => queueAgain(request, session));
  say(`${request.model}/${request.run}: revision ${queued.revision} is ${queued.state}`);
  if (!settings.wait) return { result: 'received', exitCode: 0, runs: [queued] };
  const named = { model: request.model, run: request.run, pollMs: settings.pollMs };
  return resultOfRun(await waitForRun(service, named, retries, say), session);
}

/**
 * An action on a run. Of two refusals the code alone does not say what they mean: a run that a model does not have has the
 * code of a model that the token does not cover, and one that is being loaded the code of every state.
 */
async function actOnRun<T>(
  { model, run, revision }: { model: string; run: string; revision?: number | undefined },
  { service, retries }: ServiceSession,
  action: () => Promise<T>,
): Promise<T> {
  try {
    return await action();
  } catch (error) {
    const code = refusalOf(error)?.problem?.code;
    if (!(error instanceof UploaderError)) throw error;
    if (code === 'not_found') {
      await getModel(service, model, retries); // throws when the model is what is not found
      throw new UploaderError('usage', error.message, { cause: error });
    }
    if (code === 'conflict') {
      const now = await findRun(service, model, run, retries);
      if (now?.state === 'loading' && (revision ?? now.revision) === now.revision)
        throw new UploaderError('try_again', error.message, { cause: error });
    }
    throw error;
  }
}

async function queueAgain({ model, run, reason }: RetryRequest, session: ServiceSession): Promise<Run> {
  const { service, retries } = session;
  try {
    return await retryRun(service, model, run, reason, retries);
  } catch (error) {
    // The answer to a first try may have been lost: then the run is queued, and cannot be retried again.
    if (refusalOf(error)?.status !== 409) throw error;
    const now = await findRun(service, model, run, retries);
    if (now?.state === 'queued' || now?.state === 'loading') return now;
    throw error;
  }
}

type WithdrawRequest = { model: string; run: string; reason?: string; revision?: number };

/** `uploader withdraw MODEL RUN`: cancels a revision that readers do not see. Safe to repeat. */
export async function withdraw(
  { model, run: key, ...action }: WithdrawRequest,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<StatusResult> {
  const named = { model, run: key, revision: action.revision };
  const session = openServiceSession('withdraw', flags, terminal, interrupt, `${model}/${key}`);
  const { service, retries, print } = session;
  const run = await actOnRun(named, session, () => withdrawRun(service, model, key, action, retries));
  const seen = run.shown === null ? 'no run' : `${run.shown.run} revision ${run.shown.revision}`;
  const revision = action.revision ?? run.revision;
  print(`${model}/${key}: revision ${revision} is withdrawn. Readers of scores.${model} see ${seen}.`);
  return { result: 'withdrawn', exitCode: 0, runs: [run] };
}

type PublishResult = CommandResult & { model?: Model };

/**
 * `uploader publish MODEL RUN`: readers see this run from now on. The pointer is moved only if nobody else
 * has moved it since the command started.
 */
export async function publish(
  model: string,
  publication: Publication,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<PublishResult> {
  const session = openServiceSession('publish', flags, terminal, interrupt, `${model}/${publication.run}`);
  const { service, retries } = session;
  const before = await getModel(service, model, retries);
  const moved = await actOnRun({ model, ...publication }, session, () =>
    publishRun(service, model, publication, before.tag, retries),
  );
  // Moved since: by our own request, if only its answer was lost; else by somebody else.
  const now = moved ?? (await getModel(service, model, retries)).model;
  if (moved || isWanted(now, publication)) {
    session.print(describe(now));
    return { result: 'published', exitCode: 0, model: now };
  }
  const detail = `${describe(now)} Somebody else published it in the meantime: check it, and publish again if it is still right.`;
  session.say(detail);
  return { result: 'bad_data', exitCode: EXIT_CODE_OF.data, model: now, error: { code: 'moved', detail } };
}

function isWanted({ current }: Model, { run, revision }: Publication): boolean {
  return current?.run === run && (revision === undefined || revision === current.revision);
}

function describe({ model, current }: Model): string {
  if (!current) return `Readers of scores.${model} see no run yet.`;
  const rows = current.rows ? `, ${formatCount(current.rows, 'row')}` : '';
  return `Readers of scores.${model} see ${current.run} revision ${current.revision}${rows}.`;
}
