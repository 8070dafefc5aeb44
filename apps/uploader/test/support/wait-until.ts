import { setTimeout as sleep } from 'node:timers/promises';

/** Looks until it is so; fails with its name when it is not so in time. */
export async function waitUntil(what: string, isSo: () => boolean, timeoutMs = 30_000): Promise<void> {
  const endsAt = performance.now() + timeoutMs;
  while (!isSo()) {
    if (performance.now() > endsAt) throw new Error(`Not so within ${timeoutMs} ms: ${what}.`);
    await sleep(5);
  }
}
