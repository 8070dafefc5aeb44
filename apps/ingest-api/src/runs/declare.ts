import { createHash, randomBytes } from 'node:crypto';
import type { AsOfFrom, Database } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { ModelName } from 'wire';
import { IngestError } from '../errors.ts';
import { recordAudit } from './history.ts';
import { contractOf, limitsOf, type RunLimits } from './models.ts';
import { asOfFor } from './revisions.ts';
import { queryOf, queueCompleteRevisions, transition } from './transitions.ts';

interface Declaration {
  readonly model: ModelName;
  readonly run: string;
  readonly files: readonly ManifestFile[];
  readonly asOf?: Date;
  readonly source?: Record<string, unknown>;
  readonly declaredBy: string;
  /** The most that a run may have when its model's contract does not say. */
  readonly limits: RunLimits;
  /** Called before a new revision is recorded; rejects when its sender has declared too much. */
  admit(trx: Transaction<Database>): Promise<void>;
  /**
   * Called at the end of the transaction with the bytes that are still to come; rejects when they do not fit.
   */
  reserve(trx: Transaction<Database>, newBytes: number): Promise<void>;
}

/** One file of a manifest, as its sender computed it from the source. */
interface ManifestFile {
  readonly name: string;
  readonly bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
  /** Newlines, plus one when the last line has none. */
  readonly lines: number;
}

interface Declared {
  readonly revisionId: number;
  /** False when the newest revision of the run has the same content already. */
  readonly isNew: boolean;
}

/**
 * Makes the run equal to the manifest: the newest revision if it has the same content, else a new one, which
 * replaces older ones that are not loaded yet. Content that another revision of the model has sent, in whole
 * or in part, is not sent again: the upload is shared.
 */
export async function declareRun(db: Kysely<Database>, declaration: Declaration): Promise<Declared> {
  const { model, run, files, asOf } = declaration;
  const declared = await db.transaction().execute(async (trx) => {
    const pruned = await lockRunKey(trx, model, run);
    const newest = await newestRevision(trx, model, run);
    const digest = manifestDigest(files);
    if (newest !== undefined && isSameContent(newest, digest, asOf)) {
      return { revisionId: newest.revision_id, isNew: false };
    }
    const revisionId = await openRevision(trx, newest ?? pruned, {
      ...declaration,
      digest,
      totals: totalsOf(files),
      auditDetail: { files: files.length },
    });
    const newBytes = await attachFiles(trx, declaration, revisionId);
    await declaration.reserve(trx, newBytes);
    return { revisionId, isNew: true };
  });
  // A revision whose content is there already (shared uploads, empty files) is complete from the start.
  await queueCompleteRevisions(db, { revisionId: declared.revisionId });
  return declared;
}

interface SingleFile {
  readonly uploadId: string;
  readonly model: ModelName;
  readonly run: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** The header Upload-Metadata as it was sent. */
  readonly metadata: string;
  readonly declaredBy: string;
  readonly limits: RunLimits;
  /** Called before the new revision is recorded; rejects when its sender has declared too much. */
  admit(trx: Transaction<Database>): Promise<void>;
  /** Called at the end of the transaction; rejects when the file does not fit. */
  reserve(trx: Transaction<Database>): Promise<void>;
}

/**
 * A run of one file that a plain tus client creates by POST, without a manifest. Each POST is a new revision,
 * as nothing is known of its content before it is loaded.
 */
export async function openSingleFileRun(db: Kysely<Database>, file: SingleFile): Promise<void> {
  const { model, run, declaredBy, limits } = file;
  await db.transaction().execute(async (trx) => {
    const pruned = await lockRunKey(trx, model, run);
    const newest = await newestRevision(trx, model, run);
    const revisionId = await openRevision(trx, newest ?? pruned, {
      model,
      run,
      digest: null,
      totals: { files: 1, bytes: file.sizeBytes, lines: null },
      declaredBy,
      limits,
      admit: file.admit,
      auditDetail: { files: 1, plainTus: true },
    });
    await trx
      .insertInto('ingest.upload')
      .values({
        upload_id: file.uploadId,
        model,
        bytes: file.sizeBytes,
        sha256: null,
        metadata: file.metadata,
        created_by: declaredBy,
        received_at: file.sizeBytes === 0 ? new Date() : null, // an empty file has nothing to send
      })
      .execute();
    await trx
      .insertInto('ingest.run_file')
      .values({
        revision_id: revisionId,
        name: file.name,
        bytes: file.sizeBytes,
        sha256: null,
        lines: null,
        upload_id: file.uploadId,
      })
      .execute();
    await file.reserve(trx);
  });
}

/** What is known of a run whose history was deleted (`INGEST_KEEP_HISTORY`). */
interface PrunedRun {
  readonly revision: number | null;
  readonly manifest_sha256: Buffer | null;
  readonly prunedAsOf: Date | null;
}

/**
 * Declarations of one run happen one after the other, by the lock of its row; those of other runs do not
 * wait.
 */
async function lockRunKey(trx: Transaction<Database>, model: ModelName, run: string): Promise<PrunedRun> {
  await trx
    .insertInto('ingest.model')
    .values({ name: model })
    .onConflict((c) => c.doNothing())
    .execute();
  // The update changes nothing: it locks the row.
  const { rows } = await sql<PrunedRun>`
    INSERT INTO ingest.run AS r (model, run_key) VALUES (${model}, ${run})
    ON CONFLICT (model, run_key) DO UPDATE SET pruned_revision = r.pruned_revision
    RETURNING pruned_revision AS revision, pruned_sha256 AS manifest_sha256, pruned_as_of AS "prunedAsOf"`.execute(
    trx,
  );
  return rows[0] ?? { revision: null, manifest_sha256: null, prunedAsOf: null };
}

type NewestRevision = NonNullable<Awaited<ReturnType<typeof newestRevision>>>;

async function newestRevision(trx: Transaction<Database>, model: ModelName, run: string) {
  return trx
    .selectFrom('ingest.run_revision')
    .select(['revision_id', 'revision', 'state', 'as_of', 'manifest_sha256', 'error'])
    .where('model', '=', model)
    .where('run_key', '=', run)
    .orderBy('revision', 'desc')
    .limit(1)
    .executeTakeFirst();
}

/** A revision's identity: sha256 over its files in the order of their names. */
function manifestDigest(files: readonly ManifestFile[]): Buffer {
  const hash = createHash('sha256');
  for (const file of [...files].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    hash.update(JSON.stringify([file.name, file.bytes, file.sha256, file.lines]));
  }
  return hash.digest();
}

function isSameContent(newest: NewestRevision, digest: Buffer, asOf: Date | undefined): boolean {
  if (newest.state === 'cancelled') return false;
  // The content that arrived differs from the one that was declared: only sending it again can help.
  if (newest.error?.code === 'content_mismatch') return false;
  if (asOf !== undefined && asOf.getTime() !== newest.as_of.getTime()) return false;
  return newest.manifest_sha256?.equals(digest) ?? false;
}

interface RevisionTotals {
  readonly files: number;
  readonly bytes: number;
  /** null when no manifest declared them. */
  readonly lines: number | null;
}

function totalsOf(files: readonly ManifestFile[]): RevisionTotals {
  let bytes = 0;
  let lines = 0;
  for (const file of files) {
    bytes += file.bytes;
    lines += file.lines;
  }
  return { files: files.length, bytes, lines };
}

interface NewRevision {
  readonly model: ModelName;
  readonly run: string;
  readonly asOf?: Date;
  /** The manifest's; null when none was declared. */
  readonly digest: Buffer | null;
  readonly source?: Record<string, unknown>;
  readonly declaredBy: string;
  readonly totals: RevisionTotals;
  readonly limits: RunLimits;
  admit(trx: Transaction<Database>): Promise<void>;
  readonly auditDetail: Record<string, unknown>;
}

/**
 * Adds the next revision of a run, whose key is locked. It has no file yet.
 *
 * @returns the revision's id.
 * @throws a 400 for a date outside the years 1 to 9999, or more than a year ahead of the database's clock:
 *   such a run would hide every later one; a 413 for a run that is larger than its model may be; what `admit` rejects with.
 */
async function openRevision(
  trx: Transaction<Database>,
  newest: NewestRevision | PrunedRun,
  { model, run, asOf: given, digest, source, declaredBy, totals, limits, admit, auditDetail }: NewRevision,
): Promise<number> {
  const { asOf: found, from } = asOfFor(given, run);
  const asOf = found ?? prunedDate(newest, digest);
  if (asOf !== undefined) await requireLikelyDate(trx, asOf, from);
  await requireWithinLimits(trx, model, run, totals, limits);
  await admit(trx);
  await cancelNotLoaded(trx, model, run);
  const revision = (newest.revision ?? 0) + 1;
  const { revision_id } = await trx
    .insertInto('ingest.run_revision')
    .values({
      model,
      run_key: run,
      revision,
      as_of: asOf ?? sql<Date>`now()`,
      as_of_from: from,
      manifest_sha256: digest,
      file_count: totals.files,
      total_bytes: totals.bytes,
      total_lines: totals.lines,
      source: source === undefined ? null : JSON.stringify(source),
      declared_by: declaredBy,
    })
    .returning('revision_id')
    .executeTakeFirstOrThrow();
  await recordAudit(trx, { actor: declaredBy, action: 'declare', model, run, revision, detail: auditDetail });
  return revision_id;
}

/** The same content again keeps the date that it had, so that it never replaces a run that was declared after it. */
function prunedDate(newest: NewestRevision | PrunedRun, digest: Buffer | null): Date | undefined {
  if (!('prunedAsOf' in newest) || digest === null) return undefined;
  return newest.manifest_sha256?.equals(digest) ? (newest.prunedAsOf ?? undefined) : undefined;
}

async function requireLikelyDate(trx: Transaction<Database>, asOf: Date, from: AsOfFrom): Promise<void> {
  const year = asOf.getUTCFullYear();
  const date = from === 'given' ? 'as_of' : 'The date in the run key';
  if (year < 1 || year > 9999) {
    throw new IngestError('invalid_request', `${date} is in the year ${year}; it must be in 1 to 9999.`);
  }
  const { rows } = await sql<{ tooFar: boolean }>`
    SELECT ${asOf}::timestamptz > now() + interval '1 year' AS "tooFar"`.execute(trx);
  if (rows[0]?.tooFar !== true) return;
  throw new IngestError(
    'invalid_request',
    `${date} is ${asOf.toISOString()}, more than a year ahead: this run would hide every run of the coming year. Give the date of the data (--as-of).`,
  );
}

/**
 * What is known before the first byte is sent. A compressed file may have more lines; the load counts them.
 */
async function requireWithinLimits(
  trx: Transaction<Database>,
  model: ModelName,
  run: string,
  { bytes, lines }: RevisionTotals,
  defaults: RunLimits,
): Promise<void> {
  const { maxBytes, maxRows } = limitsOf(await contractOf(queryOf(trx), model), defaults);
  if (bytes <= maxBytes && (lines ?? 0) <= maxRows) return;
  const found =
    bytes > maxBytes
      ? `${bytes} bytes; ${maxBytes} are allowed (maxBytes)`
      : `${lines} lines; ${maxRows} are allowed (maxRows)`;
  throw new IngestError(
    'too_large',
    `Run "${run}" of model "${model}" has ${found}. Send less, or ask the operators to raise the limit: ingest-api model set ${model} --max-bytes N --max-rows N.`,
  );
}

/**
 * Cancels older revisions of the run that are not loaded: they have no purpose now. One that a loader holds
 * is left to it (its row is locked): it will be loaded, and the newer one replaces it.
 */
async function cancelNotLoaded(trx: Transaction<Database>, model: ModelName, run: string): Promise<void> {
  await transition(
    queryOf(trx),
    'replace',
    `r.revision_id = ANY (ARRAY(
       SELECT revision_id FROM ingest.run_revision
       WHERE model = $1 AND run_key = $2 AND state IN ('receiving', 'queued')
       FOR NO KEY UPDATE SKIP LOCKED))`,
    [model, run],
  );
}

/**
 * Files that one round of statements attaches: each round keeps this process busy for some 20 ms, and other
 * requests wait.
 */
const SLICE = 2_000;

/** @returns the bytes that are still to be sent. */
async function attachFiles(
  trx: Transaction<Database>,
  { model, files, declaredBy }: Declaration,
  revisionId: number,
): Promise<number> {
  const taken = new Set<string>(); // no upload serves two files of a revision
  let missingBytes = 0;
  for (let start = 0; start < files.length; start += SLICE) {
    const slice = files.slice(start, start + SLICE);
    const shared = await uploadsOfSameContent(trx, model, slice, taken);
    const isNew: boolean[] = [];
    const uploadIds: string[] = [];
    for (const file of slice) {
      const reused = shared.get(contentKey(file.sha256, file.bytes))?.pop();
      const uploadId = reused?.upload_id ?? newUploadId();
      taken.add(uploadId);
      missingBytes += file.bytes - (reused?.offset_bytes ?? 0);
      isNew.push(reused === undefined);
      uploadIds.push(uploadId);
    }
    const names = slice.map(({ name }) => name);
    const bytes = slice.map((file) => file.bytes);
    const sha256 = slice.map((file) => file.sha256);
    const lines = slice.map((file) => file.lines);
    // An empty file has nothing to send.
    await sql`
      INSERT INTO ingest.upload (upload_id, model, bytes, sha256, created_by, received_at)
      SELECT upload_id, ${model}, bytes, decode(sha256, 'hex'), ${declaredBy}, CASE WHEN bytes = 0 THEN now() END
      FROM unnest(${isNew}::boolean[], ${uploadIds}::text[], ${bytes}::bigint[], ${sha256}::text[])
        AS file (is_new, upload_id, bytes, sha256)
      WHERE is_new`.execute(trx);
    await sql`
      INSERT INTO ingest.run_file (revision_id, name, bytes, sha256, lines, upload_id)
      SELECT ${revisionId}, name, bytes, decode(sha256, 'hex'), lines, upload_id
      FROM unnest(${names}::text[], ${bytes}::bigint[], ${sha256}::text[], ${lines}::bigint[], ${uploadIds}::text[])
        AS file (name, bytes, sha256, lines, upload_id)`.execute(trx);
  }
  return missingBytes;
}

interface SharedUpload {
  readonly upload_id: string;
  /** Lower-case hex. */
  readonly sha256: string;
  readonly bytes: number;
  readonly offset_bytes: number;
}

/** Uploads by content. The one with the most bytes is last, so that `pop` returns it. */
async function uploadsOfSameContent(
  trx: Transaction<Database>,
  model: ModelName,
  files: readonly ManifestFile[],
  taken: ReadonlySet<string>,
): Promise<Map<string, SharedUpload[]>> {
  const { rows } = await sql<SharedUpload>`
    SELECT u.upload_id, encode(u.sha256, 'hex') AS sha256, u.bytes, u.offset_bytes
    FROM ingest.upload u
    WHERE u.model = ${model} AND u.removed_at IS NULL
      AND u.sha256 = ANY (${files.map((file) => Buffer.from(file.sha256, 'hex'))}::bytea[])
    ORDER BY u.offset_bytes
    FOR SHARE OF u`.execute(trx); // the sweep that removes files waits for this lock, or has removed them before
  const byContent = new Map<string, SharedUpload[]>();
  for (const row of rows) {
    if (taken.has(row.upload_id)) continue;
    const key = contentKey(row.sha256, row.bytes);
    const list = byContent.get(key);
    if (list === undefined) byContent.set(key, [row]);
    else list.push(row);
  }
  return byContent;
}

function contentKey(sha256: string, bytes: number): string {
  return `${sha256} ${bytes}`;
}

export function newUploadId(): string {
  return randomBytes(16).toString('hex');
}
