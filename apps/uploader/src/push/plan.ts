import type { ExitCode, FilePage, RunFile } from 'wire';
import type { UploaderError } from '../errors.ts';
import { formatBytes, formatCount, newRunView, type PushView } from '../progress/view.ts';
import {
  type CommandResult,
  errorOf,
  errorOfAll,
  type Ignored,
  labelled,
  type RunError,
  WORD_OF,
  worstExitCode,
} from '../results.ts';
import type { PushContext } from '../send/context.ts';
import {
  EXIT_CODE_OF_STATE,
  findRun,
  listFiles,
  type Retries,
  type Run,
  type ServiceAddress,
} from '../service/client.ts';
import type { SourceRun } from '../source/find-runs.ts';
import { type HashedFile, hashRun, openHashCache } from '../source/hash.ts';

type PlannedRun = {
  model: string;
  run: string;
  files: number;
  bytes: number;
  lines: number;
  /** null: the service does not know the run yet. */
  now: { revision: number; state: Run['state'] } | null;
  wouldSendBytes: number;
  newRevision: boolean;
};
type UnplannedRun = { model: string; run: string; error: RunError };
export type PlanResult = CommandResult & { runs: Array<PlannedRun | UnplannedRun>; ignored?: Ignored };

/**
 * `push --dry-run`: hashes all files, asks the service what it has, and changes nothing there.
 *
 * @param strayFaults faults of files that belong to no run.
 */
export async function planRuns(
  runs: SourceRun[],
  strayFaults: readonly UploaderError[],
  view: PushView,
  context: PushContext,
): Promise<PlanResult> {
  const planned: PlanResult['runs'] = [];
  const codes: ExitCode[] = strayFaults.map((fault) => errorOf(fault).exitCode);
  for (const [index, run] of runs.entries()) {
    const runView = view.runs[index] ?? newRunView(run.run, run.files.length);
    try {
      if (run.fault) throw run.fault;
      runView.stage = 'hashing';
      const cache = await openHashCache(context.stateDir, run.folder, context.say);
      const files = await hashRun(run, cache, context.limit.signal, runView);
      runView.stage = 'declaring';
      const retries = context.retries(runView.label, context.limit);
      const remote = await findRun(context.service, run.model, run.run, retries);
      const known = remote ? await filesOf(remote, context.service, retries) : [];
      planned.push(plan(run, files, remote, known));
    } catch (error) {
      const fault = errorOf(error);
      codes.push(fault.exitCode);
      planned.push({ model: run.model, run: run.run, error: fault.error });
    } finally {
      runView.stage = 'done';
    }
  }
  const exitCode = worstExitCode(codes);
  const result = exitCode === 0 ? 'dry_run' : WORD_OF[exitCode];
  return { result, exitCode, runs: planned, ...errorOfAll(strayFaults) };
}

async function filesOf(run: Run, service: ServiceAddress, retries: Retries): Promise<RunFile[]> {
  const files: RunFile[] = [];
  let cursor: string | null = null;
  do {
    const page: FilePage = await listFiles(service, run.model, run.run, { cursor }, retries);
    files.push(...page.files);
    cursor = page.nextCursor;
  } while (cursor !== null);
  return files;
}

function plan(run: SourceRun, files: HashedFile[], remote: Run | null, there: RunFile[]): PlannedRun {
  const known = new Map(there.map((file) => [`${file.sha256} ${file.bytes}`, file]));
  const same = (file: HashedFile) => known.get(`${file.sha256} ${file.identity.bytes}`);
  const isSame =
    remote?.state !== 'cancelled' &&
    remote?.files.total === files.length &&
    files.every((file) => same(file)?.name === file.name);
  // Of a run that is loaded no byte is needed again, although its files may have been removed.
  const isLoaded = isSame && remote !== null && EXIT_CODE_OF_STATE[remote.state] === 0;
  const missing = isLoaded ? [] : files.map((file) => file.identity.bytes - (same(file)?.offset ?? 0));
  return {
    model: run.model,
    run: run.run,
    files: files.length,
    bytes: files.reduce((sum, file) => sum + file.identity.bytes, 0),
    lines: files.reduce((sum, file) => sum + file.lines, 0),
    now: remote ? { revision: remote.revision, state: remote.state } : null,
    wouldSendBytes: missing.reduce((sum, bytes) => sum + bytes, 0),
    newRevision: !isSame,
  };
}

export function describePlan(run: PlannedRun | UnplannedRun): string {
  if ('error' in run) return labelled(`${run.model}/${run.run}`, run.error.detail);
  const what = `${formatCount(run.files, 'file')}, ${formatBytes(run.bytes)}, ${formatCount(run.lines, 'line')}`;
  const revision = run.newRevision
    ? `would become revision ${(run.now?.revision ?? 0) + 1}`
    : `is revision ${run.now?.revision}, ${run.now?.state}`;
  return `${run.model}/${run.run}: ${what}: ${revision}; at most ${formatBytes(run.wouldSendBytes)} to send.`;
}
