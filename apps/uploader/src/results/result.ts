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

/** A command's end, as --json prints it; each command adds what it has found. */
export type CommandResult = { result: ResultWord; exitCode: ExitCode; error?: RunError };

/** What --ignore left out; the first paths, and how many there are in all. */
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

/** What ended the command before there was anything else to tell. */
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

/** The process was told to stop. Nothing is lost: what the service has acknowledged stays with it. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly signalName: 'SIGINT' | 'SIGTERM';

  constructor(signalName: 'SIGINT' | 'SIGTERM') {
    super(`Stopped by ${signalName}. It is safe to run the same command again: it goes on from there.`);
    this.signalName = signalName;
  }
}

/** --max-duration is over. */
export class OutOfTime extends Error {
  override readonly name = 'OutOfTime';
}

/** Anything thrown, as a fault with a kind: what nobody foresaw is a bug of ours. */
export function asUploaderError(error: unknown): UploaderError {
  if (error instanceof UploaderError) return error;
  if (error instanceof OutOfTime) return new UploaderError('try_again', error.message, { cause: error });
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new UploaderError('bug', `This is a bug of the uploader, please report it: ${detail}`, {
    cause: error,
  });
}

/**
 * Several runs, one exit code. 75 promises that the same command again is enough, so it is told only when
 * nothing else is wrong; among the rest, what hides the most comes first.
 */
const WORST_FIRST: readonly ExitCode[] = [130, 143, 1, 2, 77, 66, 65, 75, 0];

export function worstExitCode(codes: readonly ExitCode[]): ExitCode {
  return WORST_FIRST.find((code) => codes.includes(code)) ?? 0;
}

/** Where the sidecar of Airflow's KubernetesPodOperator looks for a task's XCom. */
const XCOM_DIR = '/airflow/xcom';

/**
 * The files that want the result. Found from the arguments themselves and not from the settings, because the
 * result is written also when the settings are what is wrong.
 */
export function findResultFiles(args: string[], env: NodeJS.ProcessEnv): string[] {
  const at = args.findIndex((arg) => arg === '--result-file' || arg.startsWith('--result-file='));
  const named = at < 0 ? env.UPLOADER_RESULT_FILE : (args[at]?.split('=', 2)[1] ?? args[at + 1]);
  const xcomDir = env.UPLOADER_XCOM_DIR || XCOM_DIR;
  return [...(named ? [named] : []), ...(isFolder(xcomDir) ? [join(xcomDir, 'return.json')] : [])];
}

/** Whole or not at all: whoever polls for the file must not find half of it. */
export function writeResultFile(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, text);
  renameSync(temporary, path);
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
