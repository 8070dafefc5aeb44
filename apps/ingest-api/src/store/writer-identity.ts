import { randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';

/**
 * The name of a writer: where its process id means something (boot and PID namespace), the process id, and
 * what no other writer ever has.
 */
export function newWriterName(): string {
  return `${pidSpace()} ${process.pid} ${randomBytes(8).toString('hex')}`;
}

/** True when the process of that writer has certainly ended. False may also mean that it cannot be seen from here. */
export function hasEnded(writer: string): boolean {
  const [space, pid] = writer.split(' ');
  if (space !== pidSpace()) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
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
