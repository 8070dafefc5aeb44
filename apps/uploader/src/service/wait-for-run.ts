import { pause } from '../net/time-limit.ts';
import { newRunView, type RunView } from '../progress/push-view.ts';
import { describeChange } from '../push/describe-change.ts';
import { EXIT_CODE_OF_STATE } from '../push/outcome.ts';
import { findRun } from './find-run.ts';
import type { Run } from './run-schema.ts';
import type { Retries, ServiceAddress } from './service-client.ts';

const FIRST_POLL_MS = 250;

/** Looks at the run until it is settled; one that is not there yet is waited for. Ends with the retries' limit. */
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
    if (!now && pollMs === FIRST_POLL_MS) say(`${view.label} is not there yet; waiting for it.`);
    before = now;
    await pause(pollMs, retries.signal);
    pollMs = Math.min(pollMs * 1.5, named.pollMs);
  }
}
