import type { RejectedLine } from 'score-lines';
import type { RunView } from '../progress/push-view.ts';
import type { SourceRun } from '../source/find-runs.ts';
import { identify, refuseEmpty } from '../source/hash-run.ts';
import { checkFile } from './check-file.ts';

/** As the service tells the bad lines of a run. */
export type Rejects = {
  total: number;
  byCode: Record<string, number>;
  first: Array<{
    file: string;
    line: number;
    byte_offset: number;
    code: string;
    detail: string;
    excerpt: string;
  }>;
};
export type CheckedRun = {
  model: string;
  run: string;
  files: number;
  bytes: number;
  lines: number;
  blank: number;
  rows: number;
  rejects: Rejects;
};

const SHOWN_REJECTS = 10;

export async function checkRun(run: SourceRun, view: RunView, signal: AbortSignal): Promise<CheckedRun> {
  if (run.fault) throw run.fault;
  refuseEmpty(run);
  const sizes: number[] = [];
  for (const file of run.files) sizes.push((await identify(file.path)).bytes);
  view.totalBytes = sizes.reduce((sum, bytes) => sum + bytes, 0);
  const rejects: Rejects = { total: 0, byCode: {}, first: [] };
  const checked = { bytes: view.totalBytes, lines: 0, blank: 0, rows: 0 };
  for (const [index, { name, path }] of run.files.entries()) {
    const onReject = (rejected: RejectedLine) => addReject(rejects, name, rejected);
    const counts = await checkFile(path, sizes[index] ?? 0, signal, onReject, (bytes) => {
      view.hashedBytes += bytes;
    });
    checked.lines += counts.lines;
    checked.blank += counts.blank;
    checked.rows += counts.rows;
  }
  return { model: run.model, run: run.run, files: run.files.length, ...checked, rejects };
}

function addReject(rejects: Rejects, file: string, rejected: RejectedLine): void {
  const { line, byteOffset, code, detail, excerpt } = rejected;
  rejects.total += 1;
  rejects.byCode[code] = (rejects.byCode[code] ?? 0) + 1;
  if (rejects.first.length < SHOWN_REJECTS) {
    rejects.first.push({ file, line, byte_offset: byteOffset, code, detail, excerpt });
  }
}
