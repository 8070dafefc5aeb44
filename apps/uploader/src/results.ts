import {
  closeSync,
  constants,
  lstatSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describeGate, EXIT_CODE_OF, type ExitCode, printableJson, type RunState } from 'wire';
import { asUploaderError, Interrupted, type UploaderError } from './errors.ts';
import { formatBytes, formatCount, formatDuration } from './progress/view.ts';
import { EXIT_CODE_OF_STATE, type Run, type Shown } from './service/client.ts';

export type ResultWord =
  | 'published'
  | 'superseded'
  | 'received'
  | 'listed'
  | 'withdrawn'
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

/** For all output in JSON: nothing else escapes it on its way out. */
export function jsonText(value: object): string {
  return printableJson(JSON.stringify(value));
}

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
  const flag = '--result-file';
  // The last one counts, as for the parser of the options.
  const at = args.findLastIndex((arg) => arg === flag || arg.startsWith(`${flag}=`));
  const given = args[at] === flag ? args[at + 1] : args[at]?.slice(flag.length + 1);
  const named = at < 0 ? env.UPLOADER_RESULT_FILE : given;
  const xcomDir = env.UPLOADER_XCOM_DIR || XCOM_DIR;
  return [...(named ? [named] : []), ...(isFolder(xcomDir) ? [join(xcomDir, 'return.json')] : [])];
}

/** What would also end a write in place, after it has emptied the file. */
const DISK_FAULTS = ['ENOSPC', 'EDQUOT', 'EIO'];

/**
 * Whole or not at all, where that is possible: a program that polls for the file must not read half of it. What is
 * not a regular file (a device, a pipe, a link) is written to and not replaced, and so is a file that cannot be
 * replaced: a mount, or one in a folder where this user may not create files.
 */
export function writeResultFile(path: string, text: string): void {
  const isReplaced = lstatSync(path, { throwIfNoEntry: false })?.isFile() ?? true;
  if (!isReplaced || !replaceResultFile(path, text)) writeInPlace(path, text);
}

/** false when it cannot be replaced. */
function replaceResultFile(path: string, text: string): boolean {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, text);
    renameSync(temporary, path);
    return true;
  } catch (error) {
    try {
      rmSync(temporary, { force: true });
    } catch {
      // Its folder or its name is what is at fault.
    }
    if (error instanceof Error && 'code' in error && DISK_FAULTS.includes(String(error.code))) throw error;
    return false;
  }
}

function writeInPlace(path: string, text: string): void {
  // A plain open() of a pipe without a reader waits, and then no signal ends the process.
  const opened = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_NONBLOCK);
  try {
    writeFileSync(path, text);
  } finally {
    closeSync(opened);
  }
}

/** Whatever is in the way (EACCES, ELOOP, ENAMETOOLONG), it is no folder for a result. */
function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
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
  /** The run's page in the service; null while the service does not know the run. */
  page: string | null;
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
  /** The sentences that list them, and their number. */
  badLines: { sentences: string[]; count: number };
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
 * The first rejected lines, each with file, line and byte. Lines of a file with the same fault are listed behind the
 * first of them.
 *
 * @param listedAt the address that lists the others.
 */
export function describeBadLines(run: Pick<Run, 'model' | 'run' | 'rejects'>, listedAt?: string): string[] {
  const { model, run: key, rejects } = run;
  const label = `${model}/${key}`;
  const first = rejects?.first ?? [];
  const sameFault = Map.groupBy(first, ({ file, code, detail }) => `${file} ${detail || code}`);
  const sentences = [...sameFault.values()].map(([shown, ...others]) => {
    if (shown === undefined) return '';
    const { file, line, byte_offset, code, detail, excerpt } = shown;
    const also =
      others.length === 0 ? '' : ` The same in line ${others.map((other) => other.line).join(', ')}.`;
    const text = excerpt ? ` The line: ${excerpt}` : '';
    return `${label}: ${file}:${line} (byte ${byte_offset}) ${code}${detail ? `: ${detail}` : ''}${also}${text}`;
  });
  const total = rejects?.total ?? 0;
  if (total <= first.length) return sentences;
  const byCode = Object.entries(rejects?.byCode ?? {}).map(([code, count]) => `${count} ${code}`);
  const all = `${label}: ${formatCount(total, 'bad line')} in all (${byCode.join(', ')}).`;
  return [
    ...sentences,
    listedAt === undefined ? all : `${all} The run's page and GET ${listedAt} list the first 1,000.`,
  ];
}

/** The name of the run comes first; some faults of a run begin with it already. */
export function labelled(label: string, detail: string): string {
  return detail.startsWith(`${label}: `) ? detail : `${label}: ${detail}`;
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

/** How one run ended: one line for each fact, the name of the run first. */
export function describeOutcome({ outcome: run, badLines }: RunResult): string {
  const label = `${run.model}/${run.run}`;
  if (run.error && run.error.code !== 'not_shown') {
    const page = run.page === null ? '' : `\n${label}: its page: ${run.page}`;
    return `${describeFault(run, badLines.count)}${page}`;
  }
  const state = run.state === 'receiving' ? 'received' : run.state;
  const rows = run.rows === null ? '' : `, ${formatCount(run.rows, 'row')}`;
  const onWire = run.bytesOnWire < run.bytesSent ? ` as ${formatBytes(run.bytesOnWire)}` : '';
  const sent = run.bytesSent === 0 ? 'nothing to send' : `${formatBytes(run.bytesSent)} sent${onWire}`;
  const end = `${label}: revision ${run.revision} is ${state}${rows}; ${sent}, ${formatDuration(run.seconds * 1000)} in all.`;
  return run.notShown === null ? end : `${end}\n${label}: ${run.notShown}`;
}

function describeFault(run: RunOutcome, badLines: number): string {
  const { model, run: key, state, revision, error } = run;
  const label = `${model}/${key}`;
  const { detail = '', file, line } = error ?? {};
  // A fault of this program says nothing about the state of the run in the service.
  if (state !== 'failed' && state !== 'held' && state !== 'cancelled') return labelled(label, detail);
  const is = `${label}: revision ${revision} ${state === 'failed' ? 'failed' : `is ${state}`}`;
  const seen = seenInstead(run);
  // The lines themselves are listed, each with what is wrong.
  if (badLines > 0 && file !== undefined && line !== undefined) {
    return `${is}: ${formatCount(badLines, 'bad line')}, the first is ${file}:${line}. Fix the data and push again.${seen}`;
  }
  const isNamed = line === undefined || (file !== undefined && detail.includes(file));
  return `${is}: ${detail}${isNamed ? '' : ` (${file ?? '?'}:${line})`}${seen}`;
}

/** After a fault of the run: what readers still see. */
function seenInstead({ model, run, shown }: RunOutcome): string {
  if (shown === null) return ` Readers of scores.${model} see no run yet.`;
  return ` Readers of scores.${model} see ${shown.run === run ? `revision ${shown.revision} of this run` : shown.run}.`;
}

const NAMED_MODELS = 5;

/**
 * After several runs: how many ended how (`50 published, 1 held, 6 failed; exit 65`), and what readers see of the
 * models whose newest run they do not see.
 */
export function describeRuns(runs: readonly RunOutcome[], exitCode: ExitCode): string[] {
  if (runs.length < 2) return [];
  const counts = Map.groupBy(runs, wordOfRun);
  const words = [...counts].sort(([a], [b]) => placeOf(a) - placeOf(b));
  const summary = words.map(([word, some]) => `${some.length} ${word}`).join(', ');
  const known = runs.filter(({ state }) => state !== null && EXIT_CODE_OF_STATE[state] !== null);
  const others = Map.groupBy(
    known.filter((run) => run.result !== 'published'),
    ({ model }) => model,
  );
  const seen = [...others]
    .filter(([model]) => !known.some((run) => run.model === model && run.result === 'published'))
    .map(([model, [first]]) => `of scores.${model} ${first?.shown?.run ?? 'no run'}`);
  const models = new Set(known.filter(({ result }) => result === 'published').map(({ model }) => model)).size;
  const published = models === 0 ? [] : [`what was pushed for ${formatCount(models, 'model')}`];
  const more = seen.length > NAMED_MODELS ? [`and ${seen.length - NAMED_MODELS} more (uploader status)`] : [];
  const all = [...published, ...seen.slice(0, NAMED_MODELS), ...more];
  return [`${summary}; exit ${exitCode}`, ...(all.length === 0 ? [] : [`Readers see ${all.join('; ')}.`])];
}

const WORDS = ['published', 'received', 'behind a later run', 'held', 'failed', 'cancelled', 'not sent'];
const placeOf = (word: string): number => (WORDS.includes(word) ? WORDS.indexOf(word) : WORDS.length);

/** The end of a run in one or two words: its state in the service, or why this program did not get that far. */
function wordOfRun({ result, state }: RunOutcome): string {
  if (result === 'bad_data' && state !== null && EXIT_CODE_OF_STATE[state] !== null) return state;
  return WORD_OF_RESULT[result] ?? 'failed';
}

const WORD_OF_RESULT: Partial<Record<ResultWord, string>> = {
  published: 'published',
  received: 'received',
  superseded: 'behind a later run',
  source: 'not sent',
  usage: 'not sent',
  not_allowed: 'not allowed',
  try_again: 'not finished',
  interrupted: 'interrupted',
};
