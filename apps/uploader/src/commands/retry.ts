import { HttpFault } from '../net/http-fault.ts';
import { EXIT_CODE_OF_STATE } from '../push/outcome.ts';
import { findRun } from '../service/find-run.ts';
import type { Run } from '../service/run-schema.ts';
import { retryRun } from '../service/service-client.ts';
import { waitForRun } from '../service/wait-for-run.ts';
import type { Flags } from '../settings/load-settings.ts';
import type { Terminal } from '../terminal.ts';
import { UploaderError } from '../uploader-error.ts';
import { openServiceSession, type ServiceSession } from './service-session.ts';
import { resultOfRun, type StatusResult } from './status.ts';

export type RetryRequest = { model: string; run: string; reason: string | undefined };

/** `uploader retry MODEL RUN`: has a failed run loaded again, and waits for its end. */
export async function retry(
  request: RetryRequest,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<StatusResult> {
  const session = openServiceSession(flags, terminal, interrupt);
  const { service, retries, settings, say } = session;
  const queued = await queueAgain(request, session);
  say(`${request.model}/${request.run} revision ${queued.revision}: ${queued.state}`);
  if (!settings.wait) return { result: 'received', exitCode: 0, runs: [queued] };
  const named = { model: request.model, run: request.run, pollMs: settings.pollMs };
  return resultOfRun(await waitForRun(service, named, retries, say), session);
}

async function queueAgain({ model, run, reason }: RetryRequest, session: ServiceSession): Promise<Run> {
  const { service, retries } = session;
  try {
    return await retryRun(service, model, run, reason, retries);
  } catch (error) {
    // The answer to a first try may have been lost: then the run is on its way, and may not be retried again.
    const cause = error instanceof UploaderError ? error.cause : null;
    if (!(cause instanceof HttpFault && cause.status === 409)) throw error;
    const now = await findRun(service, model, run, retries);
    if (now && (now.state === 'queued' || EXIT_CODE_OF_STATE[now.state] === null)) return now;
    throw error;
  }
}
