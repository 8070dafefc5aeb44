import { createHash, type Hash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { type Marker, type Segment, type Store, type StoredUpload, WrongStore } from '../store/store.ts';
import { recordAudit } from './history.ts';
import { matchingMarker, readBoth, writeBoth } from './store-identity.ts';
import { queryOf } from './transitions.ts';
import { STORED_UPLOAD } from './uploads.ts';

export interface MoveReport {
  /** The database names the other store already: an earlier move has ended. */
  readonly wasMoved: boolean;
  readonly copiedUploads: number;
  /** They were there, from an earlier move that did not end. */
  readonly presentUploads: number;
  readonly bytes: number;
}

/**
 * Copies the bytes of every upload that is not removed into another store, reads them back, and then makes that one the store
 * of the database. The old store becomes an older copy, which services and loaders refuse. Nothing is removed from it.
 *
 * Each upload is recorded when its copy is complete: after a crash the same command copies only the rest. The generation of
 * the store shows a service that has run meanwhile.
 *
 * @throws {WrongStore} when a service or a loader is connected, or either store belongs to another database.
 */
export async function moveStore(
  db: Kysely<Database>,
  { from, to }: { readonly from: Store; readonly to: Store },
  actor: string,
  onProgress: (uploads: number, ofUploads: number, bytes: number) => void,
): Promise<MoveReport> {
  await requireNobodyElse(db);
  const start = await startOf(db, from, to);
  if (start === undefined) return { wasMoved: true, copiedUploads: 0, presentUploads: 0, bytes: 0 };
  const uploads = await queryOf(db)<MovedUpload>(UPLOADS_TO_MOVE, []);
  const report = { wasMoved: false, copiedUploads: 0, presentUploads: 0, bytes: 0 };
  for (const upload of uploads) {
    if (await hasCopy(from, to, upload)) report.presentUploads += 1;
    else {
      await copyUpload(db, { from, to }, upload);
      report.copiedUploads += 1;
    }
    report.bytes += upload.offsetBytes;
    onProgress(report.copiedUploads + report.presentUploads, uploads.length, report.bytes);
  }
  await requireNobodyElse(db);
  await db.transaction().execute(async (trx) => {
    const now = matchingMarker(from, await readBoth(trx, from));
    if (now.generation !== start.generation)
      throw new WrongStore(
        `A service has run on ${from.name} meanwhile. Stop it, and run the command again.`,
      );
    await recordAudit(trx, {
      actor,
      action: 'move_store',
      detail: { from: from.name, to: to.name, uploads: uploads.length, bytes: report.bytes },
    });
    await writeBoth(trx, to, { storeId: now.storeId, generation: now.generation + 1 });
  });
  return report;
}

interface MovedUpload extends StoredUpload {
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  readonly createdAt: Date;
}

const UPLOADS_TO_MOVE = `
  SELECT ${STORED_UPLOAD}, u.offset_bytes AS "offsetBytes", u.bytes AS "sizeBytes", u.created_at AS "createdAt"
  FROM ingest.upload u WHERE u.removed_at IS NULL AND u.offset_bytes > 0 ORDER BY u.upload_id`;

/** PostgreSQL lists the sessions of a process that has just ended for a moment. */
const GONE_WITHIN_MS = 3_000;
const LOOK_AGAIN_MS = 100;

async function requireNobodyElse(db: Kysely<Database>): Promise<void> {
  const deadlineMs = performance.now() + GONE_WITHIN_MS;
  for (;;) {
    const { rows } = await sql<{ application_name: string }>`
      SELECT DISTINCT split_part(application_name, ' (', 1) AS application_name FROM pg_stat_activity
      WHERE datname = current_database()
        AND (application_name LIKE 'ingest-api serve%' OR application_name LIKE 'ingest-api load%')
      ORDER BY 1`.execute(db);
    if (rows.length === 0) return;
    if (performance.now() > deadlineMs) {
      const names = rows.map((row) => row.application_name).join(' and ');
      throw new WrongStore(
        `The store cannot be moved while programs use it: ${names} is connected to the database. Stop every service and loader, and run the command again.`,
      );
    }
    await delay(LOOK_AGAIN_MS);
  }
}

/** The marker of the store that is moved; undefined when the database names the other one already. */
async function startOf(db: Kysely<Database>, from: Store, to: Store): Promise<Marker | undefined> {
  return db.transaction().execute(async (trx) => {
    const there = await to.readMarker();
    const { row, marker } = await readBoth(trx, from);
    if (row !== undefined && there?.storeId === row.storeId && there.generation >= row.generation) {
      if (marker === undefined || marker.generation < row.generation) return undefined;
    }
    const matching = matchingMarker(from, { row, marker });
    if (there?.storeId === matching.storeId && there.generation === matching.generation)
      throw new WrongStore(`${to.name} and ${from.name} are the same store. Nothing was changed.`);
    if (there !== undefined && there.storeId !== matching.storeId)
      throw new WrongStore(
        `${to.name} is store ${there.storeId} already, and the database has ${matching.storeId}. Nothing was changed. Name an empty folder or bucket.`,
      );
    return matching;
  });
}

async function hasCopy(from: Store, to: Store, upload: MovedUpload): Promise<boolean> {
  if ((await to.durableBytes(upload)) < upload.offsetBytes) return false;
  return (await hashOf(to, upload)) === (await hashOf(from, upload));
}

async function copyUpload(
  db: Kysely<Database>,
  { from, to }: { readonly from: Store; readonly to: Store },
  upload: MovedUpload,
): Promise<void> {
  const segments: Segment[] = [];
  const hash = createHash('sha256');
  await to.write({
    upload: { ...upload, offsetBytes: 0 },
    offsetBytes: 0,
    pieces: piecesOf(acknowledgedBytes(from, upload), to.gathering.mostBytes, hash),
    mayWrite: async () => {},
    onDurable: async (_, segment) => {
      if (segment !== undefined) segments.push(segment);
    },
  });
  const sha256 = hash.digest('hex');
  const found = await hashOf(to, { ...upload, segments });
  if (found !== sha256)
    throw new Error(
      `The copy of upload ${upload.uploadId} in ${to.name} has the sha256 ${found}, and the original has ${sha256}. Nothing was switched. Run the command again.`,
    );
  await db.transaction().execute(async (trx) => {
    if (segments.length === 0) return;
    await trx.deleteFrom('ingest.upload_segment').where('upload_id', '=', upload.uploadId).execute();
    for (const { fromByte, bytes, key, crc32 } of segments)
      await trx
        .insertInto('ingest.upload_segment')
        .values({ upload_id: upload.uploadId, from_byte: fromByte, bytes, object_key: key, crc32 })
        .execute();
  });
}

async function hashOf(store: Store, upload: MovedUpload): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of acknowledgedBytes(store, upload)) hash.update(chunk);
  return hash.digest('hex');
}

/** A file may be longer than its record says: what is behind the offset was never acknowledged. */
async function* acknowledgedBytes(store: Store, upload: MovedUpload): AsyncGenerator<Buffer> {
  let leftBytes = upload.offsetBytes;
  for await (const chunk of store.read(upload)) {
    if (leftBytes === 0) return;
    const piece = chunk.subarray(0, leftBytes);
    leftBytes -= piece.byteLength;
    yield piece;
  }
  if (leftBytes > 0)
    throw new Error(
      `${store.name} lacks ${leftBytes} of the ${upload.offsetBytes} bytes of upload ${upload.uploadId}. Start the service once: it sets the upload back, and the next push sends the bytes again.`,
    );
}

/** Chunks are the store's again when the next one is asked for, so their bytes are copied. */
async function* piecesOf(
  chunks: AsyncIterable<Buffer>,
  pieceBytes: number,
  hash: Hash,
): AsyncGenerator<Buffer[]> {
  let piece: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    hash.update(chunk);
    piece.push(Buffer.from(chunk));
    bytes += chunk.byteLength;
    if (bytes < pieceBytes) continue;
    yield piece;
    piece = [];
    bytes = 0;
  }
  if (bytes > 0) yield piece;
}
