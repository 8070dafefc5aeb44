import { basename, dirname } from 'node:path';
import { watch } from 'chokidar';
import { MARKER } from './pushed-mark.ts';

/** Tells of every marker that is there, appears or is written again, until it is stopped. */
export function watchMarkers(
  root: string,
  depth: number,
  told: { onMarker: (folder: string) => void; onError: (error: unknown) => void },
): () => Promise<void> {
  const watcher = watch(root, {
    depth,
    // Data files come and go by the thousand; only folders and markers are of interest.
    ignored: (path, stats) => stats?.isFile() === true && basename(path) !== MARKER,
  });
  watcher.on('add', (path) => told.onMarker(dirname(path)));
  watcher.on('change', (path) => told.onMarker(dirname(path)));
  watcher.on('error', told.onError);
  return () => watcher.close();
}
