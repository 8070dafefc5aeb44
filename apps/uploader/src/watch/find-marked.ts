import { relative, sep } from 'node:path';

export type MarkedRun = { folder: string; model: string; run: string };

/** How many folders lie between DIR and the files: what the flags leave out. */
export function layoutDepth(model: string | null, run: string | null): number {
  return (model === null ? 1 : 0) + (run === null ? 1 : 0);
}

/** Which run a marker's folder is; null when it does not lie where the layout has its runs. */
export function markedRun(
  root: string,
  folder: string,
  model: string | null,
  run: string | null,
): MarkedRun | null {
  const path = relative(root, folder);
  const names = path === '' ? [] : path.split(sep);
  if (names.length !== layoutDepth(model, run)) return null;
  const [first = '', second = ''] = names;
  return { folder, model: model ?? first, run: run ?? (model === null ? second : first) };
}
