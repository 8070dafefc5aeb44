import { randomBytes, randomInt } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';

/** Who writes uploads: a process, as long as it keeps one session of its own with the database. */
export interface Writer {
  /**
   * Never the same twice: where its process id means something (boot and PID namespace), the process id, a random name of
   * the process, and the key.
   */
  readonly name: string;
  /** What its session holds an advisory lock on for as long as it lives. */
  readonly key: number;
}

/** @returns a maker of writers of one process: one for each session that it opens. */
export function writersOfProcess(): () => Writer {
  const ofThisProcess = `${pidSpace()} ${process.pid} ${randomBytes(8).toString('hex')}`;
  return () => {
    const key = randomInt(1, 2 ** 31);
    return { name: `${ofThisProcess} ${key}`, key };
  };
}

/** The key in a writer's name; 0, which no session has, where there is none. */
export function keyOf(writerName: string): number {
  return Number(/^\d{1,10}$/.exec(writerName.split(' ')[3] ?? '')?.[0] ?? 0);
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
