import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const BIN = fileURLToPath(new URL('../../bin/uploader.js', import.meta.url));

export type Finished = {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** Both streams as they came, which is what a BashOperator sees. */
  merged: string;
  elapsedMs: number;
};
export type Started = { process: ChildProcess; finished: Promise<Finished> };

/** The built program as its own process, with nothing of this environment but what is given. */
export function startUploader(args: string[], env: Record<string, string>): Started {
  const startedAt = performance.now();
  const child = spawn(process.execPath, [BIN, ...args], {
    env: { PATH: process.env.PATH ?? '', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const seen = { stdout: '', stderr: '', merged: '' };
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      seen[name] += text;
      seen.merged += text;
    });
  }
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (exitCode, signal) =>
      resolve({ exitCode, signal, ...seen, elapsedMs: performance.now() - startedAt }),
    );
  });
  return { process: child, finished };
}

export function lastLine(text: string): string {
  return text.trimEnd().split('\n').at(-1) ?? '';
}
