import { readFile } from 'node:fs/promises';

/** The most memory that a process has had resident so far (VmHWM); 0 when it has ended. Linux only. */
export async function peakMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024);
}

/** Looks until it is stopped, since a process takes its figure with it. */
export function watchPeaks<Name extends string>(
  pids: Record<Name, number>,
): { peaks: Record<Name, number>; stop: () => void } {
  const names = Object.keys(pids) as Name[];
  const peaks = Object.fromEntries(names.map((name) => [name, 0])) as Record<Name, number>;
  const timer = setInterval(async () => {
    for (const name of names) peaks[name] = Math.max(peaks[name], await peakMb(pids[name]));
  }, 100);
  return { peaks, stop: () => clearInterval(timer) };
}
