/** At most `count` tasks at a time; the others wait in the order in which they came. */
export function createSlots(count: number): <T>(task: () => Promise<T>) => Promise<T> {
  let free = count;
  const waiting: Array<() => void> = [];
  return async (task) => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else free++;
    }
  };
}

/**
 * Shares a line among all transfers: each tells what it has sent, and is told how long to wait before it
 * sends more. What was not used is not saved up.
 */
export function createByteBudget(
  bytesPerSecond: number | null,
  nowMs: () => number = () => performance.now(),
): (bytes: number) => number {
  if (bytesPerSecond === null) return () => 0;
  let paidUntilMs = 0;
  return (bytes) => {
    const now = nowMs();
    paidUntilMs = Math.max(now, paidUntilMs) + (bytes / bytesPerSecond) * 1000;
    return paidUntilMs - now;
  };
}
