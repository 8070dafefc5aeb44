import type { Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join, matchesGlob, relative, resolve } from 'node:path';
import { fileNameFault, modelNameFault, printable, runKeyFault } from 'wire';
import { UploaderError, unreadableReason } from '../errors.ts';
import { unreadableSource } from './read.ts';

export type SourceFile = { name: string; path: string };
/** Without `files` the run is incomplete. A `fault` ends only this run, before any of its files is read. */
export type SourceRun = {
  model: string;
  run: string;
  folder: string;
  files: SourceFile[];
  fault: UploaderError | null;
  /** Reads the folder again. */
  again: () => Promise<SourceRun>;
};
type FoundRuns = {
  runs: SourceRun[];
  /** Faults of what is in DIR and belongs to no run. */
  faults: UploaderError[];
  /** What --ignore left out, by path below DIR. */
  ignored: string[];
};

export const DATA_FILES = '*.jsonl, *.ndjson, *.json, or these with .gz or .zst';
export const SKIPPED = 'names that start with _ or . and *.tmp, *.part';
const LAYOUT = 'Folders name what the flags do not: DIR/<model>/<run>/*.jsonl with neither --model nor --run';
/** Others are only counted: a folder of 10,000 CSV files is one mistake. */
const SHOWN_STRAYS = 5;

/** The case of an ending does not matter, here and in the loader. */
const isDataFile = (name: string): boolean => /\.(jsonl|ndjson|json)(\.(gz|zst))?$/i.test(name);
const isSkipped = (name: string): boolean => /^[_.]|\.(tmp|part)$/i.test(name);
/** Hadoop and Spark write below this folder, and remove it when they commit. */
const isWriterAtWork = (name: string): boolean => name.toLowerCase() === '_temporary';

/** An entry that is neither data nor skipped, and why it is a fault. */
type Stray = { name: string; why: string };
type Listing = { files: SourceFile[]; folders: SourceFile[]; strays: Stray[] };

/**
 * The runs in DIR. Folders name what the flags do not: `DIR/<model>/<run>/*.jsonl` with neither,
 * `DIR/<model>/` with a run, `DIR/<run>/` with a model, `DIR/` with both. Sorted by code unit, so that the
 * order is the same on every host. No entry is left out in silence: it is data, its name is one of those
 * skipped, --ignore leaves it out, or a fault names it.
 *
 * @param ignore globs; one with a slash is matched with the path below `base`, any other with each name.
 * @throws {UploaderError} when DIR cannot be read, or has no folders where the layout needs them.
 */
export async function findRuns(
  dir: string,
  model: string | null,
  run: string | null,
  ignore: readonly string[] = [],
  base: string = resolve(dir),
): Promise<FoundRuns> {
  const root = resolve(dir);
  const found: Omit<FoundRuns, 'ignored'> = { runs: [], faults: [] };
  const ignored = new Set<string>();
  const isIgnored = (path: string, name: string): boolean => {
    const below = relative(base, path);
    if (!ignore.some((glob) => matchesGlob(glob.includes('/') ? below : name, glob))) return false;
    ignored.add(printable(below));
    return true;
  };

  const foldersOf = async (path: string, label: string): Promise<SourceFile[]> => {
    try {
      const { files, folders, strays } = await list(path, isIgnored);
      const all = [...files.map(({ name }) => ({ name, why: 'it belongs to no run' })), ...strays];
      if (folders.length === 0) throw noFolders(path, all);
      if (all.length > 0) found.faults.push(strayFault(label, all));
      return folders;
    } catch (error) {
      if (path === root || !(error instanceof UploaderError)) throw error;
      found.faults.push(new UploaderError(error.kind, `${label}: ${error.message}`, { cause: error }));
      return [];
    }
  };

  for (const one of model ? [{ name: model, path: root }] : await foldersOf(root, '')) {
    for (const { name, path } of run
      ? [{ name: run, path: one.path }]
      : await foldersOf(one.path, one.name)) {
      found.runs.push(await readRun(one.name, name, path, isIgnored));
    }
  }
  return { ...found, ignored: [...ignored].sort() };
}

type IsIgnored = (path: string, name: string) => boolean;

async function readRun(model: string, run: string, folder: string, isIgnored: IsIgnored): Promise<SourceRun> {
  const label = `${model}/${run}`;
  const again = () => readRun(model, run, folder, isIgnored);
  const badName = modelNameFault(model) ?? runKeyFault(run);
  if (badName !== null) {
    const fault = new UploaderError('usage', `The folder ${printable(folder)}: ${badName}`);
    return { model: printable(model), run: printable(run), folder, files: [], fault, again };
  }
  try {
    const { files, folders, strays } = await list(folder, isIgnored);
    for (const { name } of files) {
      const why = fileNameFault(name);
      if (why !== null) strays.push({ name, why });
    }
    for (const below of folders) {
      const deeper = await firstBelow(below.path, isIgnored);
      if (deeper === null) continue;
      const why = `it is in a folder below the layout, which ends with the run (${label})`;
      strays.push({ name: relative(folder, deeper), why: isWriterAtWork(below.name) ? WRITER_AT_WORK : why });
    }
    return { model, run, folder, files, fault: strays.length > 0 ? strayFault(label, strays) : null, again };
  } catch (error) {
    if (!(error instanceof UploaderError)) throw error;
    return { model, run, folder, files: [], fault: error, again };
  }
}

const WRITER_AT_WORK =
  'a writer is at work. Push when it has finished; remove the folder if the writer has died';

/**
 * The first file below that is neither skipped nor ignored. A link counts as a file: links may form a loop.
 */
async function firstBelow(folder: string, isIgnored: IsIgnored): Promise<string | null> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw unreadableSource(folder, error);
  });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (isWriterAtWork(entry.name) && !isIgnored(path, entry.name)) return path;
    if (isSkipped(entry.name) || isIgnored(path, entry.name)) continue;
    if (!entry.isDirectory()) return path;
    const deeper = await firstBelow(path, isIgnored);
    if (deeper !== null) return deeper;
  }
  return null;
}

async function list(path: string, isIgnored: IsIgnored): Promise<Listing> {
  const listing: Listing = { files: [], folders: [], strays: [] };
  // As bytes: as a string, a name that is not UTF-8 no longer names its file.
  const names = await readdir(path, { encoding: 'buffer' }).catch((error: unknown) => {
    throw unreadableSource(path, error);
  });
  const entries = names.map((bytes) => ({ bytes, name: bytes.toString('utf8') }));
  for (const { bytes, name } of entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))) {
    const entry = { name, path: join(path, name) };
    if (isSkipped(name) && !isWriterAtWork(name)) continue;
    if (isIgnored(entry.path, name)) continue;
    const stray = (why: string) => listing.strays.push({ name, why });
    if (isWriterAtWork(name)) stray(WRITER_AT_WORK);
    else if (!Buffer.from(name, 'utf8').equals(bytes)) {
      listing.strays.push({ name: asEscapes(bytes), why: 'its name is not UTF-8; rename it' });
    } else {
      // stat(), not the type of the entry: links to files and folders count as files and folders.
      const stats = await stat(entry.path).catch((error: unknown) => void stray(unreadableReason(error)));
      if (stats) sortIn(entry, stats, listing);
    }
  }
  return listing;
}

function sortIn(entry: SourceFile, stats: Stats, { files, folders, strays }: Listing): void {
  const { name } = entry;
  if (stats.isDirectory()) folders.push(entry);
  else if (!stats.isFile()) strays.push({ name, why: 'it is not a regular file' });
  else if (isDataFile(name)) files.push(entry);
  else strays.push({ name, why: `it is not a data file (${DATA_FILES})${renamed(name)}` });
}

function renamed(name: string): string {
  if (/\.(bz2|xz|lzma|lz4|zip|7z|br|snappy|sz|tar|tgz|Z)$/i.test(name)) {
    return '; decompress it, or compress it as .gz or .zst';
  }
  if (/\.(csv|tsv|txt|parquet|avro|orc|pq|feather|arrow)$/i.test(name)) return '; write JSON Lines';
  return '; if it contains JSON Lines, name it *.jsonl';
}

function asEscapes(bytes: Buffer): string {
  return bytes.toString('latin1').replace(/[^ -~]/g, (byte) => {
    return `\\x${byte.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}

function strayFault(label: string, strays: readonly Stray[]): UploaderError {
  const isRun = label.includes('/');
  const prefix = isRun ? `${printable(label)}: ` : '';
  const folder = isRun || label === '' ? '' : `${printable(label)}/`;
  const shown = strays.slice(0, SHOWN_STRAYS).map(({ name, why }) => `${folder}${printable(name)}: ${why}`);
  const more = strays.length > SHOWN_STRAYS ? ` And ${strays.length - SHOWN_STRAYS} more.` : '';
  return new UploaderError(
    'source',
    `${prefix}${shown.join('. ')}.${more} To leave a file out: --ignore GLOB.`,
  );
}

function noFolders(path: string, strays: readonly Stray[]): UploaderError {
  const [first] = strays;
  return new UploaderError(
    'source',
    first === undefined
      ? `${path} contains nothing to push. ${LAYOUT}.`
      : `${path} contains files (${printable(first.name)}) where folders are expected. ${LAYOUT}; with both, DIR/*.jsonl.`,
  );
}
