/** Bytes per second over about the last ten seconds, from a total that only grows. */
export function createRate(windowMs = 10_000): (totalBytes: number, nowMs: number) => number {
  const samples: Array<{ atMs: number; totalBytes: number }> = [];
  return (totalBytes, nowMs) => {
    samples.push({ atMs: nowMs, totalBytes });
    while (samples.length > 2 && nowMs - (samples[0]?.atMs ?? nowMs) > windowMs) samples.shift();
    const first = samples[0];
    if (!first || nowMs - first.atMs < 1) return 0;
    return ((totalBytes - first.totalBytes) / (nowMs - first.atMs)) * 1000;
  };
}
