import { renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeGate, EXIT_CODE_OF, type ExitCode, type RunState } from 'wire';
import { asUploaderError, Interrupted, type UploaderError } from './errors.ts';
import { formatBytes, formatCount, formatDuration } from './progress/view.ts';
import { EXIT_CODE_OF_STATE, type Run, type Shown } from './service/client.ts';

export type ResultWord =
  | 'published'
  | 'superseded'
  | 'received'
  | 'listed'
  | 'valid'
  | 'dry_run'
  | 'bad_data'
  | 'source'
  | 'try_again'
  | 'not_allowed'
  | 'usage'
  | 'bug'
  | 'interrupted';

export type RunError = { code: string; detail: string; file?: string; line?: number; byte_offset?: number };

/** The result of a command, as --json prints it; each command adds its own fields. */
export type CommandResult = { result: ResultWord; exitCode: ExitCode; error?: RunError };

/** What --ignore left out: the first paths, and the number of all. */
export type Ignored = { count: number; first: string[] };

const SHOWN_IGNORED = 20;

/** For the result: nothing when nothing was left out. */
export function ignoredOf(paths: readonly string[]): { ignored?: Ignored } {
  if (paths.length === 0) return {};
  return { ignored: { count: paths.length, first: paths.slice(0, SHOWN_IGNORED) } };
}

export function describeIgnored(paths: readonly string[]): string[] {
  if (paths.length === 0) return [];
  const more = paths.length > SHOWN_IGNORED ? `, and ${paths.length - SHOWN_IGNORED} more` : '';
  return [`Left out by --ignore: ${paths.slice(0, SHOWN_IGNORED).join(', ')}${more}`];
}

export const WORD_OF: Record<ExitCode, ResultWord> = {
  0: 'published',
  1: 'bug',
  2: 'usage',
  65: 'bad_data',
  66: 'source',
  75: 'try_again',
  77: 'not_allowed',
  130: 'interrupted',
  143: 'interrupted',
};

/** The result of a command that a fault ended before it had any other result. */
export function resultOfFault(error: RunError, exitCode: ExitCode): CommandResult & { runs: [] } {
  return { result: WORD_OF[exitCode], exitCode, runs: [], error };
}

/**
 * Several runs, one exit code. 75 promises that the same command again is enough, so it is used only when
 * nothing else is wrong; of the others, the code that hides most comes first.
 */
const WORST_FIRST: readonly ExitCode[] = [130, 143, 1, 2, 77, 66, 65, 75, 0];

export function worstExitCode(codes: readonly ExitCode[]): ExitCode {
  return WORST_FIRST.find((code) => codes.includes(code)) ?? 0;
}

/** Where the sidecar of Airflow's KubernetesPodOperator reads the XCom of a task. */
const XCOM_DIR = '/airflow/xcom';

/**
 * The files that receive the result. Found in the arguments and not in the settings, because the result is
 * also written when the settings are at fault.
 */
export function findResultFiles(args: string[], env: NodeJS.ProcessEnv): string[] {
  const at = args.findIndex((arg) => arg === '--result-file' || arg.startsWith('--result-file='));
  const named = at < 0 ? env.UPLOADER_RESULT_FILE : (args[at]?.split('=', 2)[1] ?? args[at + 1]);
  const xcomDir = env.UPLOADER_XCOM_DIR || XCOM_DIR;
  return [...(named ? [named] : []), ...(isFolder(xcomDir) ? [join(xcomDir, 'return.json')] : [])];
}

/** Whole or not at all: a program that polls for the file must not read half of it. */
export function writeResultFile(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** How the push of one run ended, as --json prints it: scripts depend on these names. */
export type RunOutcome = {
  model: string;
  run: string;
  revision: number | null;
  state: RunState | null;
  /** What `scores.<model>` shows readers at the end; null: nothing yet, or the service did not answer. */
  shown: Shown | null;
  /** `published` only if readers see this revision. */
  result: ResultWord;
  /** Of a run that is loaded and behind another: what readers see instead, and how to show this one. */
  notShown: string | null;
  rows: number | null;
  /** Of the files. */
  bytesSent: number;
  /** What they were on the network: fewer, where they were compressed. */
  bytesOnWire: number;
  bytesTotal: number;
  seconds: number;
  error: RunError | null;
};
export type RunResult = {
  outcome: RunOutcome;
  exitCode: ExitCode;
  badLines: string[];
};

type Settlement = { result: ResultWord; exitCode: ExitCode; error: RunError | null };

/**
 * The result of a push for a run in this state. A run behind a later one is not a fault, unless readers must
 * see it (`requireShown`). A run that has not ended is `received` for a push that does not wait.
 */
export function settlementOf(run: Run, requireShown: boolean): Settlement {
  const exitCode = EXIT_CODE_OF_STATE[run.state];
  if (exitCode === null) return { result: 'received', exitCode: 0, error: errorOfState(run) };
  if (exitCode !== 0) return { result: WORD_OF[exitCode], exitCode, error: errorOfState(run) };
  if (run.state === 'published') return { result: 'published', exitCode: 0, error: null };
  if (!requireShown) return { result: 'superseded', exitCode: 0, error: null };
  const error = { code: 'not_shown', detail: describeShown(run) ?? 'Readers do not see it.' };
  return { result: 'superseded', exitCode: EXIT_CODE_OF.data, error };
}

/** What readers see instead of a run that is loaded; null when they see it, or when it is not loaded. */
export function describeShown({ model, run, revision, as_of, state, shown }: Run): string | null {
  if (state !== 'superseded') return null;
  const toShow = `to show this one: uploader publish ${model} ${shellWord(run)} --reason TEXT`;
  if (shown === null) return `not shown: readers of scores.${model} see no run; ${toShow}`;
  if (shown.run === run) {
    return `not shown: readers of scores.${model} see revision ${shown.revision} of this run, and this is revision ${revision}; ${toShow} --revision ${revision}`;
  }
  const why = Date.parse(shown.as_of) > Date.parse(as_of) ? ', which is later' : '';
  return `not shown: readers of scores.${model} see ${shown.run} (as of ${day(shown.as_of)})${why}; ${toShow}`;
}

/** The day alone where the instant is its first; else the instant, in UTC. */
function day(instant: string): string {
  return instant.replace(/T00:00:00(?:\.0+)?Z$/, '');
}

const DETAIL_OF_STATE: Partial<Record<RunState, string>> = {
  failed: 'Its data is at fault: fix the data and push again.',
  cancelled: 'It was withdrawn, or replaced by a newer push, before it was loaded.',
};

export function errorOfState(run: Run): RunError | null {
  if (run.error) {
    const { code, detail, file, line, byte_offset } = run.error;
    return {
      code,
      detail,
      ...(file ? { file } : {}),
      ...(typeof line === 'number' ? { line } : {}),
      ...(typeof byte_offset === 'number' ? { byte_offset } : {}),
    };
  }
  const detail = run.state === 'held' ? detailOfHeld(run) : DETAIL_OF_STATE[run.state];
  return detail ? { code: run.state, detail } : null;
}

function detailOfHeld({ model, run, gates }: Run): string {
  const broken = (gates ?? []).filter((gate) => gate.broken).map((gate) => describeGate(gate).sentence);
  return `It is loaded, but not published, because it breaks a quality gate${broken.length === 0 ? '' : `: ${broken.join('; ')}`}. Push corrected files, or publish it anyway: uploader publish ${model} ${shellWord(run)} --force --reason TEXT.`;
}

/** A run key may contain any printable character; most are words to a shell as they are. */
function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * The first rejected lines, each with file, line and byte.
 *
 * @param listedAt the address that lists the others.
 */
export function describeBadLines(run: Pick<Run, 'model' | 'run' | 'rejects'>, listedAt?: string): string[] {
  const { model, run: key, rejects } = run;
  const first = rejects?.first ?? [];
  const shownFaults = new Set<string>();
  const lines = first.map((reject) => {
    // What is wrong is reported once for each kind; of other lines only the text is shown.
    const isNew = reject.detail && !shownFaults.has(`${reject.code} ${reject.file}`);
    shownFaults.add(`${reject.code} ${reject.file}`);
    const shown = reject.excerpt ? `${isNew ? ' The line: ' : ': '}${reject.excerpt}` : '';
    const excerpt = `${isNew ? `: ${reject.detail}` : ''}${shown}`;
    return `${model}/${key}/${reject.file}:${reject.line} (byte ${reject.byte_offset}) ${reject.code}${excerpt}`;
  });
  const more = (rejects?.total ?? 0) - first.length;
  if (more <= 0) return lines;
  if (listedAt === undefined) return [...lines, `${model}/${key}: … and ${more} more bad lines`];
  const byCode = Object.entries(rejects?.byCode ?? {}).map(([code, count]) => `${count} ${code}`);
  return [
    ...lines,
    `${model}/${key}: … and ${more} more bad lines (in all: ${byCode.join(', ')}). The status page and GET ${listedAt} list the first 1,000.`,
  ];
}

/** A fault about a file of the run already begins with the name of the run. */
export function labelled(label: string, detail: string): string {
  return detail.startsWith(`${label}/`) ? detail : `${label}: ${detail}`;
}

/** The error of faults that belong to no run. */
export function errorOfAll(faults: readonly unknown[]): { error?: RunError } {
  const [first, ...others] = faults.map((fault) => errorOf(fault).error);
  if (first === undefined) return {};
  return { error: { ...first, detail: [first, ...others].map(({ detail }) => detail).join(' ') } };
}

export function errorOf(fault: unknown): { error: RunError; exitCode: ExitCode } {
  if (fault instanceof Interrupted) {
    const exitCode = fault.signalName === 'SIGINT' ? 130 : 143;
    return { error: { code: 'interrupted', detail: fault.message }, exitCode };
  }
  const known = asUploaderError(fault);
  return { error: { code: known.kind, detail: known.message }, exitCode: EXIT_CODE_OF[known.kind] };
}

export type PushResult = CommandResult & { runs: RunOutcome[]; ignored?: Ignored };

/** `faults` are about what belongs to no run. */
export function resultOfRuns(results: RunResult[], faults: readonly UploaderError[]): PushResult {
  const exitCode = worstExitCode([...results, ...faults.map(errorOf)].map((one) => one.exitCode));
  const runs = results.map((result) => result.outcome);
  return {
    result: exitCode === 0 ? wordOfAll(runs) : WORD_OF[exitCode],
    exitCode,
    runs,
    ...errorOfAll(faults),
  };
}

/**
 * `published` when readers see each run, or a later run of its model in the same push (twelve months, say).
 */
function wordOfAll(runs: readonly RunOutcome[]): ResultWord {
  if (runs.some((run) => run.result === 'received')) return 'received';
  const isShown = ({ model, result, shown }: RunOutcome) =>
    result === 'published' ||
    runs.some((other) => other.model === model && other.run === shown?.run && other.result === 'published');
  return runs.every(isShown) ? 'published' : 'superseded';
}

/** How one run ended, in a sentence. */
export function describeOutcome(run: RunOutcome): string {
  const label = `${run.model}/${run.run}${run.revision === null ? '' : ` revision ${run.revision}`}`;
  const state =
    run.state === 'failed' ? 'failed' : `is ${run.state === 'receiving' ? 'received' : run.state}`;
  if (run.error && run.error.code !== 'not_shown') {
    const { detail, file, line } = run.error;
    const isNamed = line === undefined || (file !== undefined && detail.includes(file));
    const place = isNamed ? '' : ` (${file ?? '?'}:${line})`;
    // A fault of this program says nothing about the state of the run in the service.
    const settled = run.state === 'failed' || run.state === 'held' || run.state === 'cancelled';
    return settled
      ? `${label} ${state}: ${detail}${place}${seenInstead(run)}`
      : `${labelled(label, detail)}${place}`;
  }
  const rows = run.rows === null ? '' : `, ${formatCount(run.rows, 'row')}`;
  const onWire = run.bytesOnWire < run.bytesSent ? ` as ${formatBytes(run.bytesOnWire)}` : '';
  const sent = run.bytesSent === 0 ? 'nothing to send' : `${formatBytes(run.bytesSent)} sent${onWire}`;
  const end = `${label} ${state}${rows}; ${sent}, ${formatDuration(run.seconds * 1000)} in all.`;
  return run.notShown === null ? end : `${end}\n${run.model}/${run.run} is ${run.notShown}`;
}

/** After a fault of the run: what readers still see. */
function seenInstead({ model, run, shown }: RunOutcome): string {
  if (shown === null) return ` Readers of scores.${model} see no run yet.`;
  return ` Readers of scores.${model} see ${shown.run === run ? `revision ${shown.revision} of this run` : shown.run}.`;
}
