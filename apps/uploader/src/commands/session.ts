import { pause, startTimeLimit } from '../http/exchange.ts';
import { createFaultLog } from '../http/fault-log.ts';
import { describeChange, newRunView, type RunView, type Terminal } from '../progress/view.ts';
import {
  EXIT_CODE_OF_STATE,
  findRun,
  type Retries,
  type Run,
  type ServiceAddress,
  serviceAddress,
} from '../service/client.ts';
import { type Flags, loadSettings, type Settings } from '../settings/settings.ts';
import type { CommandName } from '../settings/table.ts';

/** For a command that sends a few requests and shows no progress. */
export type ServiceSession = {
  settings: Settings;
  service: ServiceAddress;
  retries: Retries;
  say: (sentence: string) => void;
  /** To stdout; with --json nowhere, because stdout is for the JSON. */
  print: (text: string) => void;
};

export function openServiceSession(
  command: CommandName,
  flags: Flags,
  terminal: Terminal,
  interrupt: AbortSignal,
  label: string,
  longest?: { ms: number; over: string },
): ServiceSession {
  const settings = loadSettings(command, flags, terminal.env);
  const isShorter = longest !== undefined && longest.ms < settings.maxDurationMs;
  const limit = isShorter
    ? startTimeLimit(longest.ms, interrupt, longest.over)
    : startTimeLimit(settings.maxDurationMs, interrupt);
  const say = (sentence: string) => terminal.writeError(`${sentence}\n`);
  return {
    settings,
    service: serviceAddress(settings),
    say,
    print: settings.json ? () => {} : (text) => terminal.writeOut(`${text}\n`),
    retries: { what: label, limit, faults: createFaultLog(say) },
  };
}

const FIRST_POLL_MS = 250;

/**
 * Polls until the run has ended. A run that does not exist yet is waited for. Throws at the limit of
 * `retries`.
 */
export async function waitForRun(
  service: ServiceAddress,
  named: { model: string; run: string; pollMs: number },
  retries: Retries,
  say: (sentence: string) => void,
): Promise<Run> {
  const view: RunView = newRunView(`${named.model}/${named.run}`, 0);
  let before: Run | null = null;
  let pollMs = FIRST_POLL_MS;
  for (;;) {
    const now: Run | null = await findRun(service, named.model, named.run, retries);
    if (now && EXIT_CODE_OF_STATE[now.state] !== null) return now;
    if (now && before) for (const sentence of describeChange(before, now, view)) say(sentence);
    if (now) view.totalBytes = now.bytes.total;
    if (!now && pollMs === FIRST_POLL_MS) say(`${view.label} does not exist yet; waiting for it.`);
    before = now;
    await pause(pollMs, retries.limit.signal);
    pollMs = Math.min(pollMs * 1.5, named.pollMs);
  }
}
