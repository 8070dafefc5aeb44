const FIRST_MS = 500;
const LONGEST_MS = 30_000;

/**
 * Exponential with full jitter: any time between nothing and a limit that doubles, so that many clients
 * which failed together do not come back together. Retry-After is a floor: sooner would be refused again.
 */
export function backoffMs(failuresInARow: number, retryAfterMs: number | null, random: () => number): number {
  const limitMs = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failuresInARow - 1, 20));
  const jitterMs = random() * limitMs;
  return retryAfterMs === null ? jitterMs : retryAfterMs + Math.min(jitterMs, 1000);
}
