import { setTimeout as delay } from 'node:timers/promises';

const POLL_MS = 25;

/** Polls until `condition` gives something, and gives that. `what` ends the sentence "Waited … for". */
export async function waitFor<T>(
  what: string,
  condition: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 10_000,
): Promise<T> {
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    const found = await condition();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadlineMs) throw new Error(`Waited ${timeoutMs} ms in vain for ${what}.`);
    await delay(POLL_MS);
  }
}
