import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';

/**
 * Who writes uploads: a process, for as long as it keeps one session of its own with the database. A name is never used
 * twice: where its process id means something (boot and PID namespace), the process id, a random name of the process, and
 * the number of the session.
 *
 * @returns a maker of the names of one process: one for each session that it opens.
 */
export function writersOfProcess(): () => string {
  const ofThisProcess = `${pidSpace()} ${process.pid} ${randomBytes(8).toString('hex')}`;
  let sessions = 0;
  return () => {
    sessions += 1;
    return `${ofThisProcess} ${sessions}`;
  };
}

/** True for two sessions of one process. */
export function isSameProcess(one: string, other: string): boolean {
  return ofProcess(one) === ofProcess(other);
}

/** True when the process of that writer has certainly ended. False may also mean that it cannot be seen from here. */
export function hasEnded(writerName: string): boolean {
  const [space, pid] = writerName.split(' ');
  if (space !== pidSpace()) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

function ofProcess(writerName: string): string {
  return writerName.split(' ').slice(0, 3).join(' ');
}

/** Where Linux does not tell, a value that no other process has: then nobody is ever taken for ended. */
function pidSpace(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${boot}/${readlinkSync('/proc/self/ns/pid')}`;
  } catch {
    return `unknown/${randomBytes(8).toString('hex')}`;
  }
}
