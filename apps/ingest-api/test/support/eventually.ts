import { setTimeout as delay } from 'node:timers/promises';

/** Waits for what `probe` looks for; fails with what it saw last when the deadline passes. */
export async function eventually<T>(
  probe: () => Promise<T>,
  isDone: (value: T) => boolean,
  deadlineMs = 30_000,
): Promise<T> {
  const endMs = Date.now() + deadlineMs;
  for (;;) {
    const value = await probe();
    if (isDone(value)) return value;
    if (Date.now() > endMs)
      throw new Error(`It did not happen within ${deadlineMs} ms; seen last: ${JSON.stringify(value)}`);
    await delay(20);
  }
}
