import { connect, partitionOf, type RejectTotals, type RevisionProfile, type StoredState } from 'db-schema';
import type pg from 'pg';
import type { ModelName } from 'wire';
import type { DatabaseConfig } from '../config.ts';

/** What was read back of one revision. */
export interface Verdict {
  readonly model: ModelName;
  readonly run: string;
  readonly revision: number;
  /** One phrase for each thing that was compared, and is as it was loaded. */
  readonly compared: readonly string[];
  /** What differs, in full sentences; empty when nothing does. */
  readonly faults: readonly string[];
}

interface LoadedRevision {
  readonly revisionId: number;
  readonly model: ModelName;
  readonly run: string;
  readonly revision: number;
  readonly state: StoredState;
  readonly rows: number;
  /** Rows that `ingest-api erase` has deleted since the load. */
  readonly erased: number;
  readonly lines: number | null;
  readonly rejects: RejectTotals | null;
  readonly profile: RevisionProfile | null;
}

/**
 * Reads the rows of loaded revisions back, and compares them with the manifest and with the profile that the load computed
 * from the files: all revisions whose rows are kept, those of one model, or those of one run. It only reads.
 *
 * @param report is called with each verdict as soon as it is known.
 * @returns how many revisions were compared.
 */
export async function verifyPartitions(
  config: DatabaseConfig,
  { model, run }: { readonly model?: ModelName | undefined; readonly run?: string | undefined },
  report: (verdict: Verdict) => void,
): Promise<number> {
  const client = await connect({
    databaseUrl: config.databaseUrl,
    role: 'ingest_loader', // the owner of the tables
    applicationName: 'ingest-api verify',
  });
  try {
    await client.query('SET extra_float_digits = 1'); // every digit, whatever the role says
    const { rows: ids } = await client.query<{ id: number }>(
      `SELECT revision_id AS id FROM ingest.run_revision
       WHERE row_count IS NOT NULL AND retired_at IS NULL AND state IN ('published', 'superseded', 'held')
         AND ($1::text IS NULL OR model = $1) AND ($2::text IS NULL OR run_key = $2)
       ORDER BY model, revision_id`,
      [model ?? null, run ?? null],
    );
    const checkKey = await keyCheck(client);
    let compared = 0;
    for (const { id } of ids) {
      // One snapshot: a run may be published, or its rows dropped, meanwhile.
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      const verdict = await verifyRevision(client, id, checkKey);
      await client.query('COMMIT');
      if (verdict === undefined) continue;
      compared += 1;
      report(verdict);
    }
    return compared;
  } finally {
    await client.end().catch(() => {});
  }
}

/** Undefined when retention has selected the rows for removal since the list was made. */
async function verifyRevision(
  client: pg.Client,
  id: number,
  checkKey: KeyCheck,
): Promise<Verdict | undefined> {
  const loaded = await readRevision(client, id);
  if (loaded === undefined) return undefined;
  const { model, run, revision, state } = loaded;
  const compared: string[] = [];
  const faults: string[] = [];
  const place = await placeOf(client, loaded);
  if (place.partition === null) faults.push(`Its table ${partitionOf(model, id)} does not exist.`);
  else {
    await compareRows(client, loaded, { compared, faults });
    if (place.key === null || place.keyOid === null)
      faults.push(`The table ${partitionOf(model, id)} has no valid primary key.`);
    else {
      const { partition, key, keyOid } = place;
      await checkKey(client, { partition, key, keyOid }, { compared, faults });
    }
  }
  if (state === 'published') {
    if (!place.isAttached)
      faults.push('It is published, and its table is not attached: readers do not see it.');
    else if (place.shown !== id)
      faults.push(`It is published, and the newest publication is of another revision.`);
    else compared.push('readers see it');
  }
  return { model, run, revision, compared, faults };
}

async function readRevision(client: pg.Client, id: number): Promise<LoadedRevision | undefined> {
  const { rows } = await client.query<LoadedRevision>(
    `SELECT revision_id AS "revisionId", model, run_key AS run, revision, state, row_count AS rows, erased_rows AS erased,
            total_lines AS lines, rejects, profile
     FROM ingest.run_revision WHERE revision_id = $1 AND retired_at IS NULL`,
    [id],
  );
  return rows[0];
}

interface Place {
  readonly partition: string | null;
  /** The index of the primary key. */
  readonly key: string | null;
  readonly keyOid: number | null;
  readonly isAttached: boolean;
  /** The revision of the model's newest publication. */
  readonly shown: number | null;
}

async function placeOf(client: pg.Client, { model, revisionId }: LoadedRevision): Promise<Place> {
  const { rows } = await client.query<Place>(
    `SELECT c.oid::regclass::text AS partition, i.indexrelid::regclass::text AS key,
            i.indexrelid AS "keyOid",
            EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid AND NOT inhdetachpending) AS "isAttached",
            (SELECT revision_id FROM ingest.publication WHERE model = $2 ORDER BY publication_id DESC LIMIT 1) AS shown
     FROM (VALUES (to_regclass($1))) p (oid)
     LEFT JOIN pg_class c ON c.oid = p.oid
     LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary AND i.indisvalid`,
    [partitionOf(model, revisionId), model],
  );
  return rows[0] ?? { partition: null, key: null, keyOid: null, isAttached: false, shown: null };
}

interface Findings {
  readonly compared: string[];
  readonly faults: string[];
}

/** The order of additions changes a sum of floating-point numbers by less than this share of the sum of their sizes. */
const SUM_TOLERANCE = 1e-9;

async function compareRows(
  client: pg.Client,
  { revisionId, model, rows: loadedRows, erased, lines, rejects, profile }: LoadedRevision,
  { compared, faults }: Findings,
): Promise<void> {
  // A scan of the table: a damaged index must not hide a row.
  await client.query(
    'SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off',
  );
  const { rows } = await client.query<{
    rows: number;
    others: number;
    min: number | null;
    max: number | null;
    mean: number | null;
    sizes: number | null;
  }>(
    // Means, not sums: a sum of scores near 1e308 is not a number any more.
    `SELECT count(*) AS rows, count(*) FILTER (WHERE revision_id IS DISTINCT FROM $1 OR pk IS NULL OR score IS NULL) AS others,
            min(score) AS min, max(score) AS max, sum(score / $2) AS mean, sum(abs(score) / $2) AS sizes
     FROM ${partitionOf(model, revisionId)}`,
    [revisionId, Math.max(1, loadedRows)],
  );
  const [found] = rows;
  if (found === undefined) throw new Error('PostgreSQL did not answer with the totals of the table.');
  const same = (what: string, was: number | null, is: number | null, isSame = was === is) => {
    if (isSame) compared.push(`${what} ${was}`);
    else faults.push(`${what}: ${was} loaded, ${is} found.`);
  };
  const left = loadedRows - erased;
  if (found.rows === left) compared.push(`rows ${left}${erased === 0 ? '' : ` (${erased} erased)`}`);
  else
    faults.push(
      `rows: ${loadedRows} loaded${erased === 0 ? '' : `, ${erased} erased since`}, ${found.rows} found.`,
    );
  if (found.others > 0) faults.push(`${found.others} rows have another revision_id, or no key or score.`);
  if (lines !== null) {
    const most = lines - (rejects?.total ?? 0);
    // Blank lines are no rows.
    if (found.rows + erased <= most)
      compared.push(`manifest ${lines} lines, ${rejects?.total ?? 0} rejected`);
    else
      faults.push(
        `The manifest has ${lines} lines, ${rejects?.total ?? 0} rejected: too few for ${found.rows + erased} rows.`,
      );
  }
  if (profile === null) {
    faults.push('The revision has no profile to compare with.');
    return;
  }
  if (erased > 0) {
    // The profile is that of all loaded rows.
    const isWithin =
      found.rows === 0 ||
      ((profile.min ?? 0) <= (found.min ?? Number.NaN) && (found.max ?? Number.NaN) <= (profile.max ?? 0));
    if (isWithin) compared.push(`scores within ${profile.min} and ${profile.max}`);
    else faults.push(`scores: ${profile.min} to ${profile.max} loaded, ${found.min} to ${found.max} found.`);
    return;
  }
  same('min', profile.min, found.min);
  same('max', profile.max, found.max);
  const mean = found.mean ?? Number.NaN;
  const tolerance = SUM_TOLERANCE * (found.sizes ?? 0);
  if (profile.mean === null) compared.push('no sum: the scores are too large for one');
  else
    same(
      'sum / rows',
      profile.mean,
      found.mean,
      Math.abs(mean - profile.mean) <= Math.max(tolerance, Number.MIN_VALUE),
    );
}

type KeyCheck = (
  client: pg.Client,
  table: { readonly partition: string; readonly key: string; readonly keyOid: number },
  findings: Findings,
) => Promise<void>;

/** SQLSTATE of what amcheck reports (`index_corrupted`, `data_corrupted`), and of a key that occurs twice. */
const CORRUPTED = new Set(['XX001', 'XX002']);

/**
 * `amcheck` compares the index with the table in both directions. Without the extension, or the right to use it, all keys
 * are counted.
 */
async function keyCheck(client: pg.Client): Promise<KeyCheck> {
  const { rows } = await client.query<{ call: string; may: boolean }>(
    `SELECT format('%I.%I', n.nspname, p.proname) || CASE WHEN p.pronargs = 3 THEN '($1::oid, true, true)' ELSE '($1::oid, true)' END AS call,
            has_function_privilege(session_user, p.oid, 'EXECUTE') AND has_schema_privilege(session_user, n.oid, 'USAGE') AS may
     FROM pg_extension e
     JOIN pg_depend d ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
     JOIN pg_proc p ON p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE e.extname = 'amcheck' AND p.proname = 'bt_index_check' AND p.pronargs >= 2
     ORDER BY p.pronargs DESC LIMIT 1`,
  );
  const [amcheck] = rows;
  if (amcheck?.may === true) {
    return async (on, { key, keyOid }, { compared, faults }) => {
      await on.query('SAVEPOINT amcheck');
      try {
        // With the rights of the login: usually only a superuser has been granted these functions.
        await on.query('SET LOCAL ROLE NONE');
        await on.query(`SELECT ${amcheck.call}`, [keyOid]);
        compared.push('key by amcheck');
      } catch (error) {
        const { code, message } = error as { code?: string; message: string };
        if (code === undefined || !CORRUPTED.has(code)) throw error;
        await on.query('ROLLBACK TO SAVEPOINT amcheck');
        faults.push(`The primary key ${key} is damaged, says amcheck: ${message}.`);
      }
    };
  }
  const why = amcheck === undefined ? 'amcheck is not installed' : 'the login may not use amcheck';
  return async (on, { partition }, { compared, faults }) => {
    const found = await on.query<{ rows: number; keys: number }>(
      `SELECT count(*) AS rows, count(DISTINCT pk) AS keys FROM ${partition}`,
    );
    const { rows: all, keys } = found.rows[0] ?? { rows: 0, keys: -1 };
    if (all === keys) compared.push(`${keys} distinct keys (${why})`);
    else faults.push(`${all} rows have ${keys} distinct keys.`);
  };
}
