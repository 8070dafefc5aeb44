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
  const detail = run.state === 'held' ? detailOfHeld(run) : DETAIL_OF_STATE[run.state];
  return detail ? { code: run.state, detail } : null;
}

function detailOfHeld({ model, run, gates }: Run): string {
  const broken = (gates ?? []).filter((gate) => gate.broken).map(describeGate);
  const told = broken.length === 0 ? '' : ` (${broken.join('; ')})`;
  return `It is loaded, and a quality gate holds it${told}. Push corrected files, or show it to readers all the same: uploader publish ${model} ${shellWord(run)} --force --reason TEXT.`;
}

export function describeGate({ gate, expected, found }: NonNullable<Run['gates']>[number]): string {
  return `${gate}: expected ${JSON.stringify(expected)}, found ${JSON.stringify(found)}`;
}

/** Run keys may hold anything that prints; most are words to a shell as they stand. */
function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * The first lines that the service refused, as a person wants to find them again.
 *
 * @param listedAt where the others can be seen.
 */
export function describeBadLines(run: Pick<Run, 'model' | 'run' | 'rejects'>, listedAt?: string): string[] {
  const { model, run: key, rejects } = run;
  const first = rejects?.first ?? [];
  const told = new Set<string>();
  const lines = first.map((reject) => {
    // What is wrong is said once for each kind; the other lines show themselves.
    const isNew = reject.detail && !told.has(`${reject.code} ${reject.file}`);
    told.add(`${reject.code} ${reject.file}`);
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
    `${model}/${key}: … and ${more} more bad lines (in all: ${byCode.join(', ')}). GET ${listedAt} lists them, the first 1,000; so does the status page.`,
  ];
}

/** A fault about a file of the run begins with the run's name by itself. */
export function labelled(label: string, detail: string): string {
  return detail.startsWith(`${label}/`) ? detail : `${label}: ${detail}`;
}

/** What is told of faults that belong to no run. */
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
