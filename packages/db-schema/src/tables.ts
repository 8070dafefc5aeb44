import type { ColumnType, Generated, GeneratedAlways } from 'kysely';
import type { Contract, ModelName, Profile, RunState } from 'wire';

/** A column with a default: an INSERT may omit it. */
type DefaultNow = ColumnType<Date, Date | undefined, Date>;
type NullableJson<T> = ColumnType<T | null, string | null | undefined, string | null>;

/** A revision's state as it is stored. `loading` is `queued` with a live load (docs/architecture.md). */
export type StoredState = Exclude<RunState, 'loading'>;

export type Scope = 'push' | 'read' | 'operate' | 'admin';

export type LoadOutcome = 'published' | 'superseded' | 'held' | 'failed' | 'retry' | 'lost';

export type LoadPhase = 'copying' | 'building_key' | 'attaching' | 'publishing';

/** The progress of the build of a primary key. */
export interface KeyBuild {
  /** `scanning` counts blocks of the table, `writing` counts rows, `sorting` counts nothing. */
  readonly step: 'scanning' | 'sorting' | 'writing';
  readonly done: number;
  /** 0 while `sorting`. */
  readonly total: number;
  /** Since this step began. */
  readonly stepSeconds: number;
  /** Since the build began. */
  readonly seconds: number;
}

/** Why a revision failed: what is wrong and where, in full sentences. */
export interface RevisionError {
  readonly code: string;
  readonly detail: string;
  readonly file?: string;
  readonly line?: number;
  readonly byte_offset?: number;
}

export interface RejectTotals {
  readonly total: number;
  readonly byCode: Readonly<Record<string, number>>;
}

/** The distribution of a loaded revision's scores. null: not a finite number (sums of scores near 1e308). */
export type RevisionProfile = Readonly<Profile> & {
  /**
   * The share of rows in each bin between the deciles (equal deciles make one edge), to compare later runs
   * with.
   */
  readonly binShares: readonly number[];
};

export type GateName =
  | 'scoreMin'
  | 'scoreMax'
  | 'minRows'
  | 'maxRowChangePercent'
  | 'maxScoreShiftPsi'
  | 'maxRejectedLines';

/** The result of one field of the contract for a revision. */
export interface GateResult {
  readonly gate: GateName;
  readonly expected: number;
  readonly found: number;
  readonly broken: boolean;
}

interface ApiTokenTable {
  token_id: GeneratedAlways<number>;
  name: string;
  token_sha256: Buffer;
  scopes: Scope[];
  models: string[] | null;
  created_at: DefaultNow;
  expires_at: Date | null;
  revoked_at: ColumnType<Date | null, undefined, Date>;
  last_used_at: ColumnType<Date | null, undefined, Date>;
}

/** A sign-in on the status page. It also ends when its token does. */
interface SessionTable {
  session_sha256: Buffer;
  token_id: number;
  created_at: DefaultNow;
  expires_at: Date;
}

interface ModelTable {
  name: ModelName;
  contract: ColumnType<Contract, string | undefined, string>;
  created_at: DefaultNow;
}

interface RunTable {
  model: ModelName;
  run_key: string;
  /** The newest revision that was deleted with its history. */
  pruned_revision: ColumnType<number | null, undefined, number>;
  pruned_sha256: ColumnType<Buffer | null, undefined, Buffer | null>;
  pruned_as_of: ColumnType<Date | null, undefined, Date>;
}

/** Where a revision's `as_of` comes from: the caller, the run key, or the time of its declaration. */
export type AsOfFrom = 'given' | 'run_key' | 'declared';

interface RunRevisionTable {
  revision_id: GeneratedAlways<number>;
  model: ModelName;
  run_key: string;
  revision: number;
  state: Generated<StoredState>;
  as_of: Date;
  as_of_from: Generated<AsOfFrom>;
  manifest_sha256: Buffer | null;
  file_count: Generated<number>;
  total_bytes: Generated<number>;
  /** null for a plain tus upload, which does not declare it. */
  total_lines: ColumnType<number | null, number | null | undefined, number | null>;
  source: NullableJson<Record<string, unknown>>;
  declared_by: string;
  declared_at: DefaultNow;
  queued_at: ColumnType<Date | null, Date | undefined, Date>;
  loaded_at: ColumnType<Date | null, undefined, Date>;
  published_at: ColumnType<Date | null, undefined, Date>;
  row_count: ColumnType<number | null, undefined, number>;
  rejects: NullableJson<RejectTotals>;
  error: NullableJson<RevisionError>;
  profile: NullableJson<RevisionProfile>;
  gates: NullableJson<readonly GateResult[]>;
  compared_with: ColumnType<number | null, undefined, number | null>;
  /** When retention selected its rows for removal: they are dropped, or will be. */
  retired_at: ColumnType<Date | null, undefined, Date>;
  /** Rows that `ingest-api erase` has deleted; `row_count` counts the rows that were loaded. */
  erased_rows: Generated<number>;
  /** When retention hid its partition from new queries, to detach it later. */
  hidden_at: ColumnType<Date | null, undefined, Date>;
}

interface PublicationTable {
  publication_id: GeneratedAlways<number>;
  model: ModelName;
  revision_id: number;
  published_at: DefaultNow;
  published_by: string;
  reason: string | null;
}

interface UploadTable {
  upload_id: string;
  model: ModelName;
  bytes: number;
  sha256: Buffer | null;
  /** Durable bytes. */
  offset_bytes: Generated<number>;
  /** The header Upload-Metadata as it was sent. */
  metadata: ColumnType<string | null, string | undefined, never>;
  created_by: string;
  created_at: DefaultNow;
  last_progress_at: DefaultNow;
  received_at: Date | null;
  /** When the upload was removed: it cannot be continued, and its file may be deleted. */
  removed_at: ColumnType<Date | null, undefined, Date>;
  /** When its file, or its objects, were deleted. */
  file_removed_at: ColumnType<Date | null, undefined, Date>;
  /** The name of its file; null: the upload id. */
  file: ColumnType<string | null, undefined, string>;
  /** The writer that has not released the upload; null when there is none. */
  writer: ColumnType<string | null, undefined, string | null>;
}

interface UploadSegmentTable {
  upload_id: string;
  from_byte: number;
  bytes: number;
  object_key: string;
  /** CRC-32 of its bytes, unsigned. */
  crc32: number;
}

interface WriterTable {
  writer: string;
  beat_at: DefaultNow;
}

interface RunFileTable {
  revision_id: number;
  name: string;
  bytes: number;
  sha256: Buffer | null;
  lines: number | null;
  upload_id: string;
}

interface LoadAttemptTable {
  attempt_id: GeneratedAlways<number>;
  revision_id: number;
  attempt: number;
  worker: string;
  /** The transaction of the load, as a decimal number: the attempt is alive while it is in progress. */
  transaction_id: ColumnType<string | null, string | null | undefined, string | null>;
  started_at: DefaultNow;
  updated_at: DefaultNow;
  phase: Generated<LoadPhase>;
  /** Of an attempt that ended regularly. */
  phase_seconds: NullableJson<Partial<Record<LoadPhase, number>>>;
  /** The last known progress, for the phase `building_key`. */
  key_build: NullableJson<KeyBuild>;
  bytes_done: Generated<number>;
  rows_done: Generated<number>;
  finished_at: Date | null;
  outcome: LoadOutcome | null;
  error: string | null;
  next_try_at: Date | null;
}

interface RejectedLineTable {
  /** Ascending in the order in which the lines were found. */
  reject_id: GeneratedAlways<number>;
  revision_id: number;
  file: string;
  line: number;
  byte_offset: number;
  code: string;
  detail: string;
  excerpt: string;
}

interface StoreTable {
  singleton: Generated<boolean>;
  store_id: string;
  generation: number;
}

interface SweepTable {
  name: 'files' | 'rows';
}

interface AuditEventTable {
  event_id: GeneratedAlways<number>;
  at: DefaultNow;
  actor: string;
  action: string;
  model: string | null;
  run_key: string | null;
  revision: number | null;
  detail: NullableJson<Record<string, unknown>>;
}

/** The tables of the service and the loader, always with their schema. */
export interface Database {
  'ingest.api_token': ApiTokenTable;
  'ingest.session': SessionTable;
  'ingest.model': ModelTable;
  'ingest.run': RunTable;
  'ingest.run_revision': RunRevisionTable;
  'ingest.publication': PublicationTable;
  'ingest.upload': UploadTable;
  'ingest.upload_segment': UploadSegmentTable;
  'ingest.writer': WriterTable;
  'ingest.run_file': RunFileTable;
  'ingest.load_attempt': LoadAttemptTable;
  'ingest.rejected_line': RejectedLineTable;
  'ingest.store': StoreTable;
  'ingest.sweep': SweepTable;
  'ingest.audit_event': AuditEventTable;
}
