import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { waitFor } from './wait-for.ts';

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
  /** What it has written so far. */
  stdout(): string;
  stderr(): string;
  ended: Promise<Ending>;
  /** Resolves when it has ended; at once when it had already. */
  kill(signal: NodeJS.Signals): Promise<Ending>;
}

/** A real process of one of the two programs. It cannot outlive the test run. */
export function startProgram(
  name: keyof typeof PROGRAMS,
  args: string[],
  env: Record<string, string>,
): RunningProgram {
  const child: ChildProcess = spawn(
    process.execPath,
    ['--import', END_WITH_PARENT, PROGRAMS[name], ...args],
    { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] },
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

/** Waits for a line of the program's JSON log (stdout) with this `msg`; fails at once when the program ends before. */
export async function waitForLog(
  program: RunningProgram,
  msg: string,
  timeoutMs = 10_000,
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
      `It ended (${ending.signal ?? ending.code}) before it logged "${msg}":\n${ending.stderr}${ending.stdout}`,
    );
  };
  return waitFor(`the log line "${msg}" of process ${program.pid}`, lineOrEnd, timeoutMs).catch(
    (error: Error) => {
      throw new Error(`${error.message} It has written:\n${program.stderr()}${program.stdout()}`, {
        cause: error,
      });
    },
  );
}
