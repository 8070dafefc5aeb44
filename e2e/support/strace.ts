import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { waitFor } from './wait-for.ts';

const run = promisify(execFile);

/** Makes system calls of a running process fail. */
export interface Injection {
  /** Lets the process go on alone; resolves to whether the fault was ever injected. */
  end(): Promise<boolean>;
}

export interface Fault {
  call: string;
  /** What it answers, or how long it hangs. */
  effect: { error: 'EIO' | 'ENOSPC' } | { delayMs: number };
  /** Counted by thread: give the process one thread for its files (UV_THREADPOOL_SIZE=1). */
  nth: number;
  /** Only calls on these paths. */
  paths: readonly string[];
}

/** @returns the reason, as a sentence, when strace cannot be used here. */
export async function whyNoStrace(): Promise<string | undefined> {
  try {
    await run('strace', ['-qq', '-o', '/dev/null', 'true']);
    const child = spawn('sleep', ['30']);
    const tried = await run('timeout', [
      '1',
      'strace',
      '-qq',
      '-o',
      '/dev/null',
      '-p',
      String(child.pid),
    ]).catch((error: { code?: number }) => error.code);
    child.kill();
    // 124: it was attached until the second was over.
    return tried === 124 ? undefined : 'This user may not attach strace to a process.';
  } catch {
    return 'There is no working strace here.';
  }
}

function effectOf({ effect }: Fault): string {
  return 'error' in effect ? `error=${effect.error}` : `delay_enter=${effect.delayMs * 1000}`;
}

export async function inject(pid: number, logPath: string, fault: Fault): Promise<Injection> {
  const strace = spawn(
    'strace',
    [
      '-f',
      ...['-p', String(pid)],
      ...['-o', logPath],
      ...fault.paths.flatMap((path) => ['-P', path]),
      ...['-e', `trace=${fault.call}`],
      ...['-e', `inject=${fault.call}:${effectOf(fault)}:when=${fault.nth}`],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  strace.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  const ended = once(strace, 'exit');
  await waitFor('strace to attach', () => {
    if (strace.exitCode !== null) throw new Error(`strace ended: ${said}`);
    return said.includes('attached');
  });
  return {
    async end() {
      strace.kill('SIGINT');
      await ended;
      return (await readFile(logPath, 'utf8')).includes('(INJECTED)');
    },
  };
}
