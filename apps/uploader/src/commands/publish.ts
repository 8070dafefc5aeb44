import type { CommandResult } from '../command-result.ts';
import { EXIT_CODE_OF } from '../exit-codes.ts';
import { formatCount } from '../progress/format.ts';
import type { Model } from '../service/run-schema.ts';
import { getModel, type Publication, publishRun } from '../service/service-client.ts';
import type { Flags } from '../settings/load-settings.ts';
import type { Terminal } from '../terminal.ts';
import { openServiceSession } from './service-session.ts';

export type PublishResult = CommandResult & { model?: Model };

/**
 * `uploader publish MODEL RUN`: readers see this run from now on. The pointer is moved only if it still
 * stands where it stood when this was asked for.
 */
export async function publish(
  model: string,
  publication: Publication,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
): Promise<PublishResult> {
  const session = openServiceSession(flags, terminal, interrupt);
  const { service, retries } = session;
  const before = await getModel(service, model, retries);
  const moved = await publishRun(service, model, publication, before.tag, retries);
  // Moved since: by our own request, if only its answer was lost; else by somebody else.
  const now = moved ?? (await getModel(service, model, retries)).model;
  if (moved || isWanted(now, publication)) {
    session.print(describe(now));
    return { result: 'published', exitCode: 0, model: now };
  }
  const detail = `${describe(now)} Somebody else published it meanwhile: look at it, and publish again if you still want to.`;
  session.say(detail);
  return { result: 'bad_data', exitCode: EXIT_CODE_OF.data, model: now, error: { code: 'moved', detail } };
}

function isWanted({ current }: Model, { run, revision }: Publication): boolean {
  return current?.run === run && (revision === undefined || revision === current.revision);
}

function describe({ model, current }: Model): string {
  if (!current) return `${model} shows no run.`;
  const rows = current.rows ? `, ${formatCount(current.rows, 'row')}` : '';
  return `${model} shows ${current.run} revision ${current.revision}${rows}.`;
}
