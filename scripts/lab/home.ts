// The files in LAB_HOME by which labs find each other: `lab.pid` while a lab starts or runs, and `lab.env`, how to reach
// it, while it runs.
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LabFailure } from './settings.ts';

const STARTS_WITHIN_MS = 120_000;
const POLL_MS = 200;

/** How to reach a running lab. */
export interface LabEnv {
  uploaderUrl: string;
  uploaderToken: string;
  /** As the superuser, so that a person can see everything. */
  databaseUrl: string;
  statusUrl: string;
}

/**
 * Takes this LAB_HOME for this process, until `leaveHome`, and returns undefined. When another lab has taken it, waits
 * until that lab runs, and returns how to reach it.
 */
export async function takeHome(home: string): Promise<LabEnv | undefined> {
  const deadlineMs = Date.now() + STARTS_WITHIN_MS;
  for (;;) {
    if (await becomeHolder(home)) return undefined;
    const env = await readLabEnv(home);
    if (env !== undefined && (await answers(env))) return env;
    if (Date.now() > deadlineMs) {
      throw new LabFailure(
        `Process ${await holderOf(home)} uses ${home}, but its service does not answer. End it, then try again.`,
      );
    }
    await delay(POLL_MS);
  }
}

export async function leaveHome(home: string): Promise<void> {
  await rm(envFileIn(home), { force: true });
  await rm(pidFileIn(home), { force: true });
}

/** Writes `lab.env`, which a shell can source. */
export async function writeLabEnv(home: string, env: LabEnv): Promise<void> {
  const lines = [
    ['UPLOADER_URL', env.uploaderUrl],
    ['UPLOADER_TOKEN', env.uploaderToken],
    ['DATABASE_URL', env.databaseUrl],
    ['STATUS_URL', env.statusUrl],
  ].map(([name, value]) => `export ${name}='${value}'\n`);
  await writeFile(envFileIn(home), lines.join(''), { mode: 0o600 });
}

async function readLabEnv(home: string): Promise<LabEnv | undefined> {
  const text = await readFile(envFileIn(home), 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  const value = (name: string) => new RegExp(`^export ${name}='(.*)'$`, 'm').exec(text)?.[1] ?? '';
  return {
    uploaderUrl: value('UPLOADER_URL'),
    uploaderToken: value('UPLOADER_TOKEN'),
    databaseUrl: value('DATABASE_URL'),
    statusUrl: value('STATUS_URL'),
  };
}

async function becomeHolder(home: string): Promise<boolean> {
  const holder = await holderOf(home);
  // A lab that was killed leaves its files behind.
  if (holder !== undefined && !(await isLab(holder))) await leaveHome(home);
  return writeFile(pidFileIn(home), String(process.pid), { flag: 'wx' }).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return false;
      throw error;
    },
  );
}

async function holderOf(home: string): Promise<number | undefined> {
  const text = await readFile(pidFileIn(home), 'utf8').catch(() => '');
  return Number.parseInt(text, 10) || undefined;
}

/** After a restart of the machine, another program may have the process id. /proc shows this, where it exists. */
async function isLab(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  return commandLine?.includes('lab/main.ts') ?? true;
}

async function answers(env: LabEnv): Promise<boolean> {
  return fetch(new URL('/readyz', env.uploaderUrl), { signal: AbortSignal.timeout(2_000) }).then(
    (response) => response.ok,
    () => false,
  );
}

function envFileIn(home: string): string {
  return join(home, 'lab.env');
}

function pidFileIn(home: string): string {
  return join(home, 'lab.pid');
}
