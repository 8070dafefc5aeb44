import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type FileIdentity, identityOf } from '../source/file-identity.ts';
import { replaceFile, stateFilePath } from '../state/state-file.ts';

/** The file that says that a run's folder is complete, as Spark and Hadoop write it. */
export const MARKER = '_SUCCESS';

/** null: the folder has no marker (any more). */
export async function markerOf(folder: string): Promise<FileIdentity | null> {
  try {
    return identityOf(await stat(join(folder, MARKER), { bigint: true }));
  } catch {
    return null;
  }
}

/**
 * Whether this very marker has led to a push that is settled. Without a state folder, or when it was
 * deleted, the run is pushed again, which sends nothing.
 */
export async function wasPushed(
  stateDir: string | null,
  folder: string,
  marker: FileIdentity,
): Promise<boolean> {
  if (stateDir === null) return false;
  const known = await readFile(stateFilePath(stateDir, folder, '.pushed.json'), 'utf8').catch(() => '');
  return known === textOf(marker);
}

export async function rememberPushed(
  stateDir: string | null,
  folder: string,
  marker: FileIdentity,
): Promise<void> {
  if (stateDir === null) return;
  await replaceFile(stateFilePath(stateDir, folder, '.pushed.json'), textOf(marker)).catch(() => {});
}

const textOf = (marker: FileIdentity): string => JSON.stringify(marker);
