import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const END_WITH_PARENT = join(ROOT, 'scripts/lab/end-with-parent.ts');
const PROGRAMS = {
  'ingest-api': join(ROOT, 'apps/ingest-api/bin/ingest-api.js'),
  uploader: join(ROOT, 'apps/uploader/bin/uploader.js'),
};

export interface Ending {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface RunningProgram {
  pid: number;
  /** Its output so far. */
  stdout(): string;
  stderr(): string;
  /** Like a log collector that hangs: the pipe of its stdout fills up. `false` reads it again. */
  leaveUnread(isUnread: boolean): void;
  ended: Promise<Ending>;
  /** Resolves when the process has ended. */
  kill(signal: NodeJS.Signals): Promise<Ending>;
}

/**
 * Starts one of the two programs as a process. It ends with the test run at the latest.
 *
 * @param cwd its working directory; by default that of the test.
 */
export function startProgram(
  name: keyof typeof PROGRAMS,
  args: string[],
  env: Record<string, string>,
  cwd?: string,
): RunningProgram {
  const child: ChildProcess = spawn(
    process.execPath,
    ['--import', END_WITH_PARENT, PROGRAMS[name], ...args],
    {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      ...(cwd !== undefined && { cwd }),
    },
  );
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const ended = once(child, 'close').then(([code, signal]): Ending => ({ code, signal, stdout, stderr }));
  return {
    pid: child.pid ?? -1,
    stdout: () => stdout,
    stderr: () => stderr,
    leaveUnread(isUnread) {
      if (isUnread) child.stdout?.pause();
      else child.stdout?.resume();
    },
    ended,
    kill(signal) {
      child.kill(signal);
      return ended;
    },
  };
}

/** Runs a program to its end. */
export function runProgram(
  name: keyof typeof PROGRAMS,
  args: string[],
  env: Record<string, string>,
): Promise<Ending> {
  return startProgram(name, args, env).ended;
}

/** Waits for a line of the program's JSON log (stdout) with this `msg`. Rejects at once when the program ends first. */
export async function waitForLog(
  program: RunningProgram,
  msg: string,
  timeoutMs = 30_000,
): Promise<Record<string, unknown>> {
  let ending: Ending | undefined;
  program.ended.then((end) => {
    ending = end;
  });
  const lineOrEnd = () => {
    const line = program
      .stdout()
      .split('\n')
      .find((text) => text.includes(`"msg":"${msg}"`));
    if (line !== undefined) return JSON.parse(line) as Record<string, unknown>;
    if (ending === undefined) return undefined;
    throw new Error(
      `Process ${program.pid} ended (${ending.signal ?? ending.code}) before it logged "${msg}":\n${ending.stderr}${ending.stdout}`,
    );
  };
  return waitFor(`the log line "${msg}" of process ${program.pid}`, lineOrEnd, timeoutMs).catch(
    (error: Error) => {
      throw new Error(`${error.message} Its output:\n${program.stderr()}${program.stdout()}`, {
        cause: error,
      });
    },
  );
}

const POLL_MS = 25;

/** Polls until `condition` returns a value, and resolves to it. `what` completes the sentence "Waited … for". */
export async function waitFor<T>(
  what: string,
  condition: () => Promise<T | undefined | false> | T | undefined | false,
  timeoutMs = 30_000,
): Promise<T> {
  const deadlineMs = Date.now() + timeoutMs;
  for (;;) {
    const found = await condition();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadlineMs) throw new Error(`Waited ${timeoutMs} ms for ${what}, which did not happen.`);
    await delay(POLL_MS);
  }
}

/** The peak resident memory of a process so far (VmHWM); 0 when it has ended. Linux only. */
export async function peakMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return Math.round(Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024);
}

/** Polls the peaks until `stop`, because the figure is gone when a process has ended. */
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
