import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** How to reach a lab that is up. The superuser's address: a person in the lab may look at everything. */
export interface LabEnv {
  uploaderUrl: string;
  uploaderToken: string;
  databaseUrl: string;
  statusUrl: string;
}

/** `lab.env` is there only while the lab is up, for a shell to source. */
export async function writeLabEnv(home: string, env: LabEnv): Promise<void> {
  const lines = [
    ['UPLOADER_URL', env.uploaderUrl],
    ['UPLOADER_TOKEN', env.uploaderToken],
    ['DATABASE_URL', env.databaseUrl],
    ['STATUS_URL', env.statusUrl],
  ].map(([name, value]) => `export ${name}='${value}'\n`);
  await writeFile(pathIn(home), lines.join(''), { mode: 0o600 });
}

export async function readLabEnv(home: string): Promise<LabEnv | undefined> {
  const text = await readFile(pathIn(home), 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  const value = (name: string) => new RegExp(`^export ${name}='(.*)'$`, 'm').exec(text)?.[1] ?? '';
  return {
    uploaderUrl: value('UPLOADER_URL'),
    uploaderToken: value('UPLOADER_TOKEN'),
    databaseUrl: value('DATABASE_URL'),
    statusUrl: value('STATUS_URL'),
  };
}

export async function removeLabEnv(home: string): Promise<void> {
  await rm(pathIn(home), { force: true });
}

function pathIn(home: string): string {
  return join(home, 'lab.env');
}
