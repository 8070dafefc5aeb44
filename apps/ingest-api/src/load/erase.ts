import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { type ConnectOptions, connect, parentOf, partitionOf, STATISTICS_TARGET } from 'db-schema';
import type pg from 'pg';
import { type ModelName, printable } from 'wire';
import { UsageError } from '../errors.ts';

/** The file of keys cannot be used; nothing was erased. */
export class UnusableKeys extends UsageError {
  override readonly name = 'UnusableKeys';
}

interface Erasure {
  readonly model: ModelName;
  readonly keyFile: string;
  readonly reason: string;
  readonly actor: string;
}

export interface ErasureReport {
  /** Lines of the file that have a key. */
  readonly keys: number;
  readonly revisions: number;
  readonly rows: number;
  readonly blankedLines: number;
  /** Files of runs that are received, but not loaded: they may contain the keys. */
  readonly waitingFiles: readonly WaitingFile[];
  /** Files of loaded and withdrawn runs that the service has not deleted yet. */
  readonly keptFiles: number;
}

interface ErasedRevision {
  readonly revisionId: number;
  readonly run: string;
  readonly revision: number;
  readonly state: string;
  readonly rows: number;
}

interface WaitingFile {
  readonly run: string;
  readonly revision: number;
  readonly state: string;
  readonly name: string;
}

/**
 * Deletes the rows of the keys from every revision of a model whose rows are kept, attached or not, one transaction a
 * revision: readers see a run with all of these keys or with none. A kill loses at most the transaction of one revision,
 * and the same command again does the rest.
 *
 * A load in progress is not visible yet. If it ends meanwhile, its revision is erased too; if not, its files are among
 * `waitingFiles`, and the command must be run again after it.
 *
 * @throws {UnusableKeys} before anything is erased.
 */
export async function eraseKeys(
  connection: ConnectOptions,
  erasure: Erasure,
  onErased: (revision: ErasedRevision) => void,
): Promise<ErasureReport> {
  const { model } = erasure;
  const keys = await countKeys(erasure.keyFile);
  const client = await connect(connection);
  try {
    await recordErasure(client, erasure, keys);
    const total = { revisions: 0, rows: 0 };
    const done = new Set<number>();
    for (;;) {
      // Asked before the revisions: a load that ends between the two questions is in both answers, never in none.
      const waitingFiles = await filesThatWait(client, model);
      const next = (await revisionsWithRows(client, model)).filter((it) => !done.has(it.revisionId));
      if (next.length === 0) {
        // At the end: loads that have ended meanwhile may quote keys, too. One that ends later is among `waitingFiles`.
        const blankedLines = await blankQuotes(client, model);
        if (total.rows > 0) await analyzeParent(client, model);
        const keptFiles = await countKeptFiles(client, model);
        return { keys, ...total, blankedLines, waitingFiles, keptFiles };
      }
      for (const revision of next) {
        done.add(revision.revisionId);
        const rows = await eraseFrom(client, erasure, revision);
        if (rows === undefined) continue;
        total.revisions += 1;
        total.rows += rows;
        onErased({ ...revision, rows });
      }
    }
  } finally {
    await client.end();
  }
}

async function recordErasure(
  client: pg.Client,
  { model, actor, reason }: Erasure,
  keys: number,
): Promise<void> {
  const { rows: known } = await client.query('SELECT FROM ingest.model WHERE name = $1', [model]);
  if (known.length === 0) throw new UnusableKeys(`There is no model "${model}". Nothing was erased.`);
  await client.query(
    `INSERT INTO ingest.audit_event (actor, action, model, detail)
     VALUES ($1, 'erase', $2, jsonb_build_object('reason', $3::text, 'keys', $4::bigint))`,
    [actor, model, reason, keys],
  );
}

/**
 * Scores keep no trace of a key but rows and statistics; a rejected line is quoted, and so may its key be.
 *
 * @returns the number of blanked lines.
 */
async function blankQuotes(client: pg.Client, model: ModelName): Promise<number> {
  await client.query('BEGIN');
  const { rowCount } = await client.query(
    `UPDATE ingest.rejected_line l SET excerpt = '', detail = $2
     FROM ingest.run_revision r WHERE r.revision_id = l.revision_id AND r.model = $1 AND (l.excerpt <> '' OR l.detail <> $2)`,
    [model, ERASED],
  );
  await client.query(
    `WITH failed AS (
       UPDATE ingest.run_revision SET error = error || jsonb_build_object('detail', $2::text)
       WHERE model = $1 AND error->>'code' IN ('bad_lines', 'duplicate_keys', 'refused_by_database')
       RETURNING revision_id)
     UPDATE ingest.load_attempt a SET error = $2 FROM failed f WHERE a.revision_id = f.revision_id AND a.error IS NOT NULL`,
    [model, ERASED],
  );
  await client.query('COMMIT');
  return rowCount ?? 0;
}

const ERASED = 'The text was erased (ingest-api erase), because it could quote a key.';

type RevisionWithRows = Omit<ErasedRevision, 'rows'>;

/** Those that retention has marked, but not dropped yet, have rows too. */
async function revisionsWithRows(client: pg.Client, model: ModelName): Promise<readonly RevisionWithRows[]> {
  const { rows } = await client.query<RevisionWithRows>(
    `SELECT r.revision_id AS "revisionId", r.run_key AS run, r.revision, r.state
     FROM ingest.run_revision r
     JOIN pg_class c ON c.relname = r.model || '$' || r.revision_id AND c.relkind = 'r'
       AND c.relnamespace = 'run_data'::regnamespace
     WHERE r.model = $1 ORDER BY r.revision_id`,
    [model],
  );
  return rows;
}

/** Keys in one statement, to bound memory and the length of a statement. */
const BATCH_KEYS = 10_000;
const LOOK_AGAIN_MS = 20;

/** @returns undefined when retention has dropped the rows meanwhile. */
async function eraseFrom(
  client: pg.Client,
  { model, keyFile, reason, actor }: Erasure,
  { revisionId, run, revision }: RevisionWithRows,
): Promise<number | undefined> {
  const partition = partitionOf(model, revisionId);
  await client.query('BEGIN');
  // Retention neither detaches nor drops anything until the transaction ends.
  await client.query(`SELECT FROM ingest.sweep WHERE name = 'rows' FOR UPDATE`);
  if (!(await revisionsWithRows(client, model)).some((it) => it.revisionId === revisionId)) {
    await client.query('ROLLBACK');
    return undefined;
  }
  let rows = 0;
  for await (const keys of keysOf(keyFile)) {
    const { rowCount } = await client.query(`DELETE FROM ${partition} WHERE pk = ANY ($1::text[])`, [keys]);
    rows += rowCount ?? 0;
  }
  if (rows === 0) {
    await client.query('COMMIT');
    return 0;
  }
  // A publication by hand may hold the model's row and wait for this partition: asked for without waiting, so that it
  // runs into its time-out at the worst, instead of a deadlock.
  for (;;) {
    const locked = await client.query(
      'SELECT FROM ingest.model WHERE name = $1 FOR NO KEY UPDATE SKIP LOCKED',
      [model],
    );
    if (locked.rows.length > 0) break;
    await delay(LOOK_AGAIN_MS);
  }
  // The views look for the first row of a partition, or the one that is named here.
  await client.query(
    `WITH erased AS (
       UPDATE ingest.run_revision SET erased_rows = erased_rows + $2, first_row = (SELECT ctid FROM ${partition} LIMIT 1)
       WHERE revision_id = $1 RETURNING revision_id, first_row)
     UPDATE ingest.publication p SET first_row = e.first_row FROM erased e WHERE p.revision_id = e.revision_id`,
    [revisionId, rows],
  );
  await client.query(
    `INSERT INTO ingest.audit_event (actor, action, model, run_key, revision, detail)
     VALUES ($1, 'erase', $2, $3, $4, jsonb_build_object('reason', $5::text, 'rows', $6::bigint))`,
    [actor, model, run, revision, reason, rows],
  );
  await client.query('COMMIT');
  // Deleted rows, the entries of the key and the samples of the statistics still contain the keys.
  await client.query(`SET default_statistics_target = ${STATISTICS_TARGET}`);
  await client.query(`VACUUM (ANALYZE, INDEX_CLEANUP ON, TRUNCATE OFF) ${partition}`);
  return rows;
}

/** Before PostgreSQL 18 this also analyses each partition that is attached. */
async function analyzeParent(client: pg.Client, model: ModelName): Promise<void> {
  const { rows } = await client.query<{ only: string }>(
    `SELECT CASE WHEN current_setting('server_version_num')::integer >= 180000 THEN 'ONLY' ELSE '' END AS only`,
  );
  await client.query(`ANALYZE ${rows[0]?.only ?? ''} ${parentOf(model)}`);
}

const RECEIVED_FILES = `
  FROM ingest.run_revision r
  JOIN ingest.run_file f USING (revision_id)
  JOIN ingest.upload u USING (upload_id)
  WHERE r.model = $1 AND u.removed_at IS NULL AND u.offset_bytes > 0`;

async function filesThatWait(client: pg.Client, model: ModelName): Promise<readonly WaitingFile[]> {
  const { rows } = await client.query<WaitingFile>(
    `SELECT r.run_key AS run, r.revision, r.state, f.name ${RECEIVED_FILES}
       AND r.state IN ('receiving', 'queued', 'failed') ORDER BY r.revision_id, f.name`,
    [model],
  );
  return rows;
}

async function countKeptFiles(client: pg.Client, model: ModelName): Promise<number> {
  const { rows } = await client.query<{ files: number }>(
    `SELECT count(DISTINCT u.upload_id) AS files ${RECEIVED_FILES} AND r.state NOT IN ('receiving', 'queued', 'failed')`,
    [model],
  );
  return rows[0]?.files ?? 0;
}

/** A key has at most 2,048 bytes; as a JSON string each byte may take six. */
const LONGEST_LINE_BYTES = 6 * 2_048 + 2;

/** Reads the whole file before anything is erased. */
async function countKeys(keyFile: string): Promise<number> {
  try {
    const found = await stat(keyFile);
    // It is read once for each revision, which a pipe does not allow.
    if (!found.isFile()) throw new UnusableKeys(`${keyFile} is not a regular file.`);
    let count = 0;
    for await (const keys of keysOf(keyFile)) count += keys.length;
    if (count === 0) throw new UnusableKeys(`${keyFile} contains no key.`);
    return count;
  } catch (error) {
    const { message } = error as Error;
    const found = error instanceof UnusableKeys ? message : `The file of keys cannot be read: ${message}.`;
    throw new UnusableKeys(`${found} Nothing was erased.`);
  }
}

/**
 * The keys of a file, in batches: one a line, in UTF-8, each exactly as it was pushed. A line that begins with a quotation
 * mark is a JSON string, for keys that begin with one or contain a line break.
 */
async function* keysOf(keyFile: string): AsyncGenerator<readonly string[]> {
  let batch: string[] = [];
  let number = 0;
  for await (const line of linesOf(keyFile)) {
    number += 1;
    if (line === '') continue;
    batch.push(keyIn(line, `${keyFile}, line ${number}`));
    if (batch.length < BATCH_KEYS) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

function keyIn(line: string, place: string): string {
  const wrong = (what: string) =>
    new UnusableKeys(
      `${place}: ${what}. Write one key a line, as it was pushed; one that begins with a quotation mark or a brace, or contains a line break, as a JSON string.`,
    );
  if (line.includes('\0')) throw wrong('no key contains a NUL character');
  if (line.includes('\r')) throw wrong('the line contains a carriage return');
  if (line.startsWith('{') || line.startsWith('['))
    throw wrong(`the line looks like JSON: ${printable(line.slice(0, 60))}`);
  if (!line.startsWith('"')) return line;
  try {
    const key: unknown = JSON.parse(line);
    if (typeof key === 'string' && !key.includes('\0')) return key;
  } catch {}
  throw wrong('the line begins with a quotation mark, but is not a JSON string');
}

async function* linesOf(keyFile: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let rest = '';
  const decode = (chunk?: Buffer) => {
    try {
      return decoder.decode(chunk, { stream: chunk !== undefined });
    } catch {
      throw new UnusableKeys(`${keyFile} is not a text in UTF-8.`);
    }
  };
  const withoutReturn = (line: string) => (line.endsWith('\r') ? line.slice(0, -1) : line);
  for await (const chunk of createReadStream(keyFile)) {
    const lines = (rest + decode(chunk)).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > LONGEST_LINE_BYTES)
      throw new UnusableKeys(`${keyFile} has a line that is longer than any key. Write one key a line.`);
    for (const line of lines) yield withoutReturn(line);
  }
  yield withoutReturn(rest + decode());
}
