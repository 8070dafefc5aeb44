import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
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

const PROGRAM = [process.execPath, BIN];
/** Root reads every file; without these two capabilities it is bound by their modes, as everybody else is. */
const BOUND_BY_MODES =
  process.getuid?.() === 0
    ? ['setpriv', '--bounding-set=-dac_override,-dac_read_search', ...PROGRAM]
    : PROGRAM;

/** Not where root may not give up its capabilities, or could not read this checkout without them. */
export function canBeBoundByModes(): boolean {
  const [command = '', ...args] = BOUND_BY_MODES;
  return spawnSync(command, [...args, '--version']).status === 0;
}

/** Where the programs are, and the cache of compiled code (`scripts/steps.mjs`). */
const { PATH = '', NODE_COMPILE_CACHE = '' } = process.env;

/** The built program as its own process, with nothing else of this environment but what is given. */
export function startUploader(
  args: string[],
  env: Record<string, string>,
  { boundByModes = false } = {},
): Started {
  const startedAt = performance.now();
  const [command = '', ...first] = boundByModes ? BOUND_BY_MODES : PROGRAM;
  const child = spawn(command, [...first, ...args], {
    env: { PATH, NODE_COMPILE_CACHE, ...env },
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
