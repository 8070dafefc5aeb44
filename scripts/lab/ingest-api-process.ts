import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { LabFailure } from './lab-failure.ts';
import { ROOT } from './lab-settings.ts';
import type { Stoppable } from './stoppable.ts';

const PROGRAM = join(ROOT, 'apps/ingest-api/bin/ingest-api.js');
const END_WITH_PARENT = fileURLToPath(new URL('./end-with-parent.ts', import.meta.url));
const STOPS_WITHIN_MS = 30_000;

/** Runs a command of ingest-api to its end, and gives its stdout. */
export async function runIngestApi(args: string[], env: Record<string, string>): Promise<string> {
  const options = { env: { ...process.env, ...env } };
  try {
    return (await promisify(execFile)(process.execPath, [PROGRAM, ...args], options)).stdout;
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string };
    throw new LabFailure(`ingest-api ${args.join(' ')} failed:\n${stderr.trim() || message}`, {
      cause: error,
    });
  }
}

export interface IngestApiProcess extends Stoppable {
  /** The port that `serve` says it listens on. */
  listening: Promise<number>;
  broken: Promise<never>;
}

/** Starts `ingest-api serve` or `load`, with its log in a file. */
export function startIngestApi(
  command: 'serve' | 'load',
  env: Record<string, string>,
  logDir: string,
): IngestApiProcess {
  const name = `ingest-api ${command}`;
  const logPath = join(logDir, `${command}.log`);
  const log = createWriteStream(logPath, { mode: 0o600 });
  // Detached: a Ctrl-C in the terminal is for the lab, which stops its parts in order.
  const child = spawn(process.execPath, ['--import', END_WITH_PARENT, PROGRAM, command], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    detached: true,
  });
  child.stdout?.pipe(log, { end: false });
  child.stderr?.pipe(log, { end: false });
  const ended = once(child, 'close').then(([code, signal]) => {
    log.end();
    return signal ? `was ended by ${signal}` : `ended with exit code ${code}`;
  });
  let stopping = false;
  const broken = ended.then(async (how) => {
    if (stopping) return new Promise<never>(() => undefined);
    throw new LabFailure(`${name} ${how}.\n${await tailOf(logPath)}\nIts log is ${logPath}.`);
  });
  broken.catch(() => undefined);
  return {
    name,
    listening: listeningPort(child),
    broken,
    async stop() {
      stopping = true;
      child.kill('SIGTERM');
      const giveUp = setTimeout(() => child.kill('SIGKILL'), STOPS_WITHIN_MS);
      await ended;
      clearTimeout(giveUp);
    },
  };
}

/** The service logs one JSON object a line; the one with `"msg":"listening"` names the port. */
function listeningPort(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    if (child.stdout === null) return;
    const lines = createInterface(child.stdout);
    lines.on('line', (line) => {
      const port = /"msg":"listening"/.test(line) ? /"port":(\d+)/.exec(line)?.[1] : undefined;
      if (port === undefined) return;
      resolve(Number(port));
      lines.removeAllListeners('line');
    });
  });
}

async function tailOf(logPath: string): Promise<string> {
  const text = await readFile(logPath, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-15).join('\n');
}
