import { renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExitCode, FaultKind } from 'wire';

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

/** A fault with its sentence: what happened, to what, and what to do next. Its kind decides the exit code. */
export class UploaderError extends Error {
  override readonly name = 'UploaderError';
  readonly kind: FaultKind;

  constructor(kind: FaultKind, message: string, options?: { cause: unknown }) {
    super(message, options);
    this.kind = kind;
  }
}

/** A signal stopped the process. Nothing is lost: the service keeps what it acknowledged. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly signalName: 'SIGINT' | 'SIGTERM';

  constructor(signalName: 'SIGINT' | 'SIGTERM') {
    super(`Stopped by ${signalName}. Run the same command again: it continues from here.`);
    this.signalName = signalName;
  }
}

/** --max-duration is over. */
export class OutOfTime extends Error {
  override readonly name = 'OutOfTime';
}

/** Anything thrown, as a fault with a kind: what the code does not expect is a bug of the uploader. */
export function asUploaderError(error: unknown): UploaderError {
  if (error instanceof UploaderError) return error;
  if (error instanceof OutOfTime) return new UploaderError('try_again', error.message, { cause: error });
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new UploaderError('bug', `This is a bug of the uploader, please report it: ${detail}`, {
    cause: error,
  });
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
