import type { AsOfFrom, GateResult, LoadPhase, RevisionError } from 'db-schema';
import { mayDo, type RunAction, type RunState } from './states.ts';

/** A run in a list: its newest revision, how far it is, and which of its revisions readers see. */
export interface RunSummary {
  readonly model: string;
  readonly run: string;
  readonly revision: number;
  readonly state: RunState;
  readonly as_of: Date;
  readonly declaredAt: Date;
  readonly queuedAt: Date | null;
  readonly loadedAt: Date | null;
  readonly publishedAt: Date | null;
  readonly as_of_from: AsOfFrom;
  /** What `scores.<model>` shows now; null before the first publication. */
  readonly shown: ShownRun | null;
  /** The revision of this run that readers see now; null when they see another run. */
  readonly publishedRevision: number | null;
  readonly pushedBy: string;
  readonly rows: number | null;
  readonly files: { readonly total: number; readonly received: number; readonly stalled: number };
  readonly bytes: { readonly total: number; readonly received: number };
  /** null when nothing was declared (a plain tus upload). */
  readonly lines: number | null;
  /** null once all bytes are there: `queuedAt` says since when. */
  readonly lastProgressAt: Date | null;
  readonly load: LoadSummary | null;
  readonly error: RevisionError | null;
  /** What holds it, while it is held. */
  readonly brokenGates: readonly GateResult[];
  readonly mayDo: readonly RunAction[];
}

export interface ShownRun {
  readonly run: string;
  readonly revision: number;
  /** ISO 8601, as it comes out of PostgreSQL's JSON. */
  readonly as_of: string;
  readonly publishedAt: string;
}

export interface LoadSummary {
  readonly attempt: number;
  readonly worker: string;
  /** null when the attempt has ended. */
  readonly phase: LoadPhase | null;
  readonly bytes: number;
  readonly rows: number;
  readonly startedAt: Date;
  readonly nextTryAt: Date | null;
  readonly lastError: string | null;
}

/** As the query of `list-runs.ts` finds it. */
export interface SummaryRow {
  readonly revision_id: number;
  /** Which candidate led to this run, where a page of candidates was asked for. */
  readonly candidate_id: number | null;
  readonly looked_at: Date;
  readonly model: string;
  readonly run_key: string;
  readonly revision: number;
  readonly shown_state: RunState;
  readonly as_of: Date;
  readonly declared_at: Date;
  readonly queued_at: Date | null;
  readonly loaded_at: Date | null;
  readonly published_at: Date | null;
  readonly as_of_from: AsOfFrom;
  readonly shown: ShownRun | null;
  readonly keeps_rows: boolean;
  readonly keeps_files: boolean;
  readonly declared_by: string;
  readonly row_count: number | null;
  readonly error: RevisionError | null;
  readonly gates: readonly GateResult[] | null;
  readonly file_count: number;
  readonly received_files: number;
  readonly stalled_files: number;
  readonly total_bytes: number;
  readonly received_bytes: number;
  readonly total_lines: number | null;
  readonly last_progress_at: Date | null;
  readonly attempt: number | null;
  readonly worker: string;
  readonly phase: LoadPhase;
  readonly bytes_done: number;
  readonly rows_done: number;
  readonly started_at: Date;
  readonly finished_at: Date | null;
  readonly next_try_at: Date | null;
  readonly load_error: string | null;
}

export function toSummary(row: SummaryRow): RunSummary {
  return {
    model: row.model,
    run: row.run_key,
    revision: row.revision,
    state: row.shown_state,
    as_of: row.as_of,
    declaredAt: row.declared_at,
    queuedAt: row.queued_at,
    loadedAt: row.loaded_at,
    publishedAt: row.published_at,
    as_of_from: row.as_of_from,
    shown: row.shown,
    publishedRevision: row.shown?.run === row.run_key ? row.shown.revision : null,
    pushedBy: row.declared_by,
    rows: row.row_count,
    files: {
      total: row.file_count,
      received: row.received_files,
      stalled: row.shown_state === 'receiving' ? row.stalled_files : 0,
    },
    bytes: { total: row.total_bytes, received: row.received_bytes },
    lines: row.total_lines,
    lastProgressAt: row.last_progress_at,
    load:
      row.attempt === null
        ? null
        : {
            attempt: row.attempt,
            worker: row.worker,
            phase: row.finished_at === null ? row.phase : null,
            bytes: row.bytes_done,
            rows: row.rows_done,
            startedAt: row.started_at,
            nextTryAt: row.next_try_at,
            lastError: row.load_error,
          },
    error: row.error,
    brokenGates: row.shown_state === 'held' ? (row.gates ?? []).filter(({ broken }) => broken) : [],
    mayDo: mayDo(row.shown_state, { keepsRows: row.keeps_rows, keepsFiles: row.keeps_files }),
  };
}
