import { setTimeout as delay } from 'node:timers/promises';
import { eventually } from './eventually.ts';
import type { TestSystem } from './system.ts';

const SEEN_WITHIN_MS = 30_000;
/** For a checkpoint on a busy machine. */
const FREE_WITHIN_MS = 2_000;
const AGAIN_AFTER_MS = 20;

/**
 * Stops the backend that runs a load while it does what a progress view shows, as a debugger or a disk that hangs would.
 *
 * A process that is stopped keeps its locks inside PostgreSQL too. One that is stopped while it writes WAL or its line of
 * pg_stat_activity stops the whole server with it, and then every request waits for the database. So it is let go and
 * stopped again until the others can work: a checkpoint takes every lock on WAL and waits for buffers.
 *
 * @returns what lets it continue; it may be called again.
 */
export async function holdBackend(
  system: TestSystem,
  progressView: 'pg_stat_progress_copy' | 'pg_stat_progress_create_index',
  condition = 'true',
): Promise<() => void> {
  for (;;) {
    const [backend] = await eventually(
      () =>
        system.query<{ pid: number }>(
          `SELECT pid FROM ${progressView} WHERE datname = current_database() AND ${condition}`,
        ),
      (rows) => rows.length === 1,
      SEEN_WITHIN_MS,
    );
    if (backend === undefined) throw new Error('No backend runs a load.');
    const letGo = () => resume(backend.pid);
    process.kill(backend.pid, 'SIGSTOP');
    const others = system.query('CHECKPOINT').then(() => system.query('SELECT FROM pg_stat_activity'));
    const isFree = await Promise.race([others.then(() => true), delay(FREE_WITHIN_MS, false)]);
    if (isFree) return letGo;
    letGo();
    await others;
    await delay(AGAIN_AFTER_MS);
  }
}

function resume(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
