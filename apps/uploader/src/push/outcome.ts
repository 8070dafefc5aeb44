import type { RunError } from '../command-result.ts';
import { EXIT_CODE_OF, type ExitCode } from '../exit-codes.ts';
import type { Run, RunState } from '../service/run-schema.ts';
import { asUploaderError, Interrupted } from '../uploader-error.ts';

/** How the push of one run ended, as --json prints it: scripts hold on to these names. */
export type RunOutcome = {
  model: string;
  run: string;
  revision: number | null;
  state: RunState | null;
  rows: number | null;
  bytesSent: number;
  bytesTotal: number;
  seconds: number;
  error: RunError | null;
};
export type RunResult = { outcome: RunOutcome; exitCode: ExitCode; badLines: string[] };

/** What a run's state means to whoever pushed it; null: it is not settled yet. */
export const EXIT_CODE_OF_STATE: Record<RunState, ExitCode | null> = {
  receiving: null,
  queued: null,
  loading: null,
  published: 0,
  superseded: 0,
  held: EXIT_CODE_OF.data,
  failed: EXIT_CODE_OF.data,
  cancelled: EXIT_CODE_OF.data,
};

const DETAIL_OF_STATE: Partial<Record<RunState, string>> = {
  held: 'It is loaded, and a quality gate holds it: publish it by hand, or push corrected files.',
  failed: 'Its data is at fault: push corrected files.',
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
  const detail = DETAIL_OF_STATE[run.state];
  return detail ? { code: run.state, detail } : null;
}

/** The first lines that the service refused, as a person wants to find them again. */
export function describeBadLines({ rejects }: Pick<Run, 'rejects'>): string[] {
  const first = rejects?.first ?? [];
  const lines = first.map((reject) => {
    const excerpt = reject.excerpt ? `: ${reject.excerpt}` : '';
    return `${reject.file}:${reject.line} (byte ${reject.byte_offset}) ${reject.code}${excerpt}`;
  });
  const more = (rejects?.total ?? 0) - first.length;
  return more > 0 ? [...lines, `… and ${more} more bad lines`] : lines;
}

export function errorOf(fault: unknown): { error: RunError; exitCode: ExitCode } {
  if (fault instanceof Interrupted) {
    const exitCode = fault.signalName === 'SIGINT' ? 130 : 143;
    return { error: { code: 'interrupted', detail: fault.message }, exitCode };
  }
  const known = asUploaderError(fault);
  return { error: { code: known.kind, detail: known.message }, exitCode: EXIT_CODE_OF[known.kind] };
}
