import { randomBytes } from 'node:crypto';
import type { Database, ModelName } from 'db-schema';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { RunLimits } from './contract.ts';
import { type ManifestFile, manifestDigest } from './manifest.ts';
import {
  lockRunKey,
  type NewestRevision,
  newestRevision,
  openRevision,
  type RevisionTotals,
} from './open-revision.ts';
import { queueCompleteRevisions } from './queue-complete-revisions.ts';

export interface Declaration {
  readonly model: ModelName;
  readonly run: string;
  readonly files: readonly ManifestFile[];
  readonly asOf?: Date;
  readonly source?: Record<string, unknown>;
  readonly declaredBy: string;
  /** What a run may have when its model's contract says nothing of it. */
  readonly limits: RunLimits;
  /** Called at the end of the transaction with the bytes that are still to come; rejects when they do not fit. */
  reserve(trx: Transaction<Database>, newBytes: number): Promise<void>;
}

export interface Declared {
  readonly revisionId: number;
  /** False when the newest revision of the run has this very content. */
  readonly isNew: boolean;
}

/**
 * Makes the run equal to the manifest: the newest revision if it has the same content, else a new one, which
 * takes the place of older ones that are still on their way. Content that another revision of the model has
 * sent, or half sent, is not sent again: its upload is shared.
 */
export async function declareRun(db: Kysely<Database>, declaration: Declaration): Promise<Declared> {
  const declared = await db.transaction().execute(async (trx) => {
    await lockRunKey(trx, declaration.model, declaration.run);
    const newest = await newestRevision(trx, declaration.model, declaration.run);
    const digest = manifestDigest(declaration.files);
    if (newest !== undefined && isSameContent(newest, digest, declaration.asOf)) {
      return { revisionId: newest.revision_id, isNew: false };
    }
    const { source } = declaration;
    const { revisionId } = await openRevision(trx, newest, {
      ...declaration,
      digest,
      totals: totalsOf(declaration.files),
      auditDetail: { files: declaration.files.length, ...(source === undefined ? {} : { source }) },
    });
    const newBytes = await attachFiles(trx, declaration, revisionId);
    await declaration.reserve(trx, newBytes);
    return { revisionId, isNew: true };
  });
  // A revision whose content is all there already (shared uploads, empty files) is complete from the start.
  await queueCompleteRevisions(db, { revisionId: declared.revisionId });
  return declared;
}

function isSameContent(newest: NewestRevision, digest: Buffer, asOf: Date | undefined): boolean {
  if (newest.state === 'cancelled') return false;
  // What arrived was not what was declared: only sending it again can help.
  if (newest.error?.code === 'content_mismatch') return false;
  if (asOf !== undefined && asOf.getTime() !== newest.as_of.getTime()) return false;
  return newest.manifest_sha256?.equals(digest) ?? false;
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

interface SharedUpload {
  readonly upload_id: string;
  /** Lower-case hex. */
  readonly sha256: string;
  readonly bytes: number;
  readonly offset_bytes: number;
}

/** Files that are attached by one round of statements: each takes some 20 ms of this process, which others wait for. */
const SLICE = 2_000;

/** @returns the bytes that are still to be sent. */
async function attachFiles(
  trx: Transaction<Database>,
  declaration: Declaration,
  revisionId: number,
): Promise<number> {
  const { model, files, declaredBy } = declaration;
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

/** Uploads by content; the furthest one last, so that `pop` takes it. */
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
    FOR SHARE OF u`.execute(trx); // the sweep that removes files waits, or has been here before
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
