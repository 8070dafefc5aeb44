import { readdir, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { UploaderError } from '../uploader-error.ts';
import { fileNameFault, modelNameFault, runKeyFault } from './names.ts';
import { unreadableSource } from './source-fault.ts';

export type SourceFile = { name: string; path: string };
/** `files` may be empty: then the run is incomplete, which is told as that run's own outcome. */
export type SourceRun = { model: string; run: string; folder: string; files: SourceFile[] };
export type FoundRuns = { runs: SourceRun[]; warnings: string[] };

const isDataFile = (name: string): boolean => /\.(jsonl|ndjson|json)(\.(gz|zst))?$/.test(name);
const isPassedOver = (name: string): boolean => /^[_.]|\.(tmp|part)$/.test(name);

/**
 * Which runs DIR holds: what the flags leave out, the folders say. `DIR/<model>/<run>/*.jsonl` with neither,
 * `DIR/<model>/` with a run, `DIR/<run>/` with a model, `DIR/` with both. Sorted by code unit, so that the
 * same folder gives the same order on every host.
 */
export async function findRuns(dir: string, model: string | null, run: string | null): Promise<FoundRuns> {
  const root = resolve(dir);
  const warnings: string[] = [];
  const runs: SourceRun[] = [];
  for (const modelLevel of model ? [{ name: model, path: root }] : await foldersOf(root, warnings)) {
    for (const runLevel of run
      ? [{ name: run, path: modelLevel.path }]
      : await foldersOf(modelLevel.path, warnings)) {
      const { files, folders } = await list(runLevel.path, isDataFile);
      for (const folder of folders) {
        warnings.push(`${folder.path} lies deeper than the layout goes and is ignored.`);
      }
      runs.push({ model: modelLevel.name, run: runLevel.name, folder: runLevel.path, files });
    }
  }
  refuseBadNames(runs);
  return { runs, warnings };
}

async function foldersOf(path: string, warnings: string[]): Promise<SourceFile[]> {
  // A link that leads nowhere may have been a run: to pass it over would leave that out, and end with 0.
  const { files, folders } = await list(path, () => true);
  if (folders.length > 0) {
    if (files.length > 0)
      warnings.push(`${path} holds data files of its own, which belong to no run and are ignored.`);
    return folders;
  }
  const layout =
    'Folders say what the flags leave out: DIR/<model>/<run>/*.jsonl with neither --model nor --run';
  throw new UploaderError(
    'source',
    files.length > 0
      ? `${path} holds data files, where a folder was expected. ${layout}; with both, DIR/*.jsonl.`
      : `${path} holds nothing to push. ${layout}.`,
  );
}

async function list(
  path: string,
  mustBeReadable: (name: string) => boolean,
): Promise<{ files: SourceFile[]; folders: SourceFile[] }> {
  const files: SourceFile[] = [];
  const folders: SourceFile[] = [];
  for (const name of (await readFolder(path)).filter((name) => !isPassedOver(name)).sort()) {
    const entry = { name, path: join(path, name) };
    // stat(), not the entry's own type: links to files and folders are as good as those.
    const stats = await stat(entry.path).catch((error: unknown) => {
      if (mustBeReadable(name)) throw unreadableSource(entry.path, error);
      return null;
    });
    if (stats?.isDirectory()) folders.push(entry);
    else if (stats && isDataFile(name)) {
      if (!stats.isFile()) throw new UploaderError('source', `${entry.path} is not a regular file.`);
      files.push(entry);
    }
  }
  return { files, folders };
}

async function readFolder(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    throw unreadableSource(path, error);
  }
}

/** Told all at once, and before anything is sent. */
function refuseBadNames(runs: SourceRun[]): void {
  const faults = runs.flatMap(({ model, run, folder, files }) =>
    [modelNameFault(model), runKeyFault(run), ...files.map(({ name }) => fileNameFault(name))]
      .filter((fault) => fault !== null)
      .map((fault) => `The folder ${basename(folder)} (${folder}): ${fault}`),
  );
  if (faults.length > 0) throw new UploaderError('usage', [...new Set(faults)].join('\n'));
}
