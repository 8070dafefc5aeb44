import type pg from 'pg';
import type { ModelName } from 'wire';

/**
 * The partition of one revision. A model name contains no `$`, so that revision 12 of model `churn` never
 * collides with a model named `churn_12`. At most 59 bytes; PostgreSQL truncates names at 63.
 */
export function partitionOf(model: ModelName, revisionId: number): string {
  return `run_data."${model}$${revisionId}"`;
}

/** The partitioned table that all revisions of a model are attached to. */
export function parentOf(model: ModelName): string {
  return `run_data."${model}"`;
}

/**
 * ANALYZE reads 300 rows for each unit of it. With PostgreSQL's default of 100 it would take a twentieth of a load;
 * autovacuum reads that many a minute later anyway. With 10 the estimates of a join are as good.
 */
export const STATISTICS_TARGET = 10;

/**
 * Creates the partitioned table of a model and the view that applications read, unless they exist. It
 * replaces nothing: that would wait for readers and make readers wait. Two loaders may run it at once: it
 * locks the model's row until the end of the transaction. Run it inside a transaction, as `ingest_loader`,
 * which then owns the table.
 */
export async function createModelRelations(client: pg.ClientBase, model: ModelName): Promise<void> {
  const exists = async () =>
    (await client.query(`SELECT FROM pg_views WHERE schemaname = 'scores' AND viewname = '${model}'`)).rows
      .length > 0;
  if (await exists()) return;
  await client.query(`SELECT FROM ingest.model WHERE name = '${model}' FOR NO KEY UPDATE`);
  if (await exists()) return;
  await client.query(`
    CREATE TABLE ${parentOf(model)} (
      score double precision NOT NULL,
      revision_id integer NOT NULL,
      pk text COLLATE "C" NOT NULL,
      attributes jsonb
    ) PARTITION BY LIST (revision_id)`);
  await client.query(`SELECT ingest.create_scores_view('${model}')`);
}

/**
 * What a role may do only through a function: the loader creates the view of a model, but nothing else in
 * schema `scores`; the service attaches a partition, but can neither read nor change it. `migrate` creates
 * them again each time.
 */
export const MODEL_FUNCTIONS = `
CREATE OR REPLACE FUNCTION ingest.refuse_old_snapshot(model_name text) RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE id integer;
BEGIN
  SELECT revision_id INTO id FROM ingest.publication WHERE model = model_name ORDER BY publication_id DESC LIMIT 1;
  IF NOT FOUND THEN RETURN NULL; END IF;
  -- This reads PostgreSQL's caches, which know the attached partitions of this moment, whatever snapshot the
  -- reader has. An attached one is the model's first run, just published, which the reader's plan does not
  -- contain yet.
  IF pg_partition_root(to_regclass(format('run_data.%I', model_name || '$' || id))) IS NOT NULL THEN RETURN NULL; END IF;
  RAISE EXCEPTION 'The runs of model "%" in this transaction''s snapshot are not shown any more.', model_name
    USING ERRCODE = 'serialization_failure', HINT = 'End this transaction and begin a new one: it sees the published run.';
END $function$;
-- The views of schema scores call it with the rights of their readers.
GRANT EXECUTE ON FUNCTION ingest.refuse_old_snapshot TO PUBLIC;

CREATE OR REPLACE FUNCTION ingest.create_scores_view(model_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  PERFORM FROM ingest.model WHERE name = model_name;
  IF NOT FOUND THEN RAISE EXCEPTION 'There is no model "%".', model_name; END IF;
  -- The view shows the newest publication whose partition the reader can see.
  --
  -- A reader whose plan was made before a partition was attached, but whose snapshot was taken after the
  -- publication committed, does not have this partition in its plan: with a bare pointer it would see no row
  -- at all (docs/decisions/0003). With the probe it sees the previous run, complete. The probe is planned
  -- before the table that it guards, so that the table always contains what the probe found.
  --
  -- The probe reads the first row of a partition by its address: a search for another revision_id in a partition that is
  -- alone in the plan would read all of it. OFFSET 0 keeps the order, so that the first publication that is there ends it.
  --
  -- A reader with an old snapshot that reads the view for the first time after every run in the snapshot was
  -- detached would see no row either: it gets an error.
  --
  -- The columns of the run come from a LEFT JOIN on a key, which the planner omits when a query does not
  -- select them.
  --
  -- Every row is compared with one value that is computed once (an InitPlan). That coalesce calls the function only when
  -- nothing was found; for the same reason its language is loaded only then.
  --
  EXECUTE format($view$
    CREATE VIEW scores.%1$I AS
    SELECT d.pk, d.score, d.attributes, r.run_key AS run, r.as_of, r.published_at
    FROM run_data.%1$I d
    LEFT JOIN ingest.shown_run r ON r.revision_id = d.revision_id
    WHERE d.revision_id = (SELECT coalesce(
      (SELECT p.revision_id
       FROM (SELECT revision_id FROM ingest.publication
             WHERE model = %1$L ORDER BY publication_id DESC OFFSET 0) p
       WHERE (SELECT true FROM run_data.%1$I probe WHERE probe.revision_id = p.revision_id AND probe.ctid = '(0,1)')
       LIMIT 1),
      ingest.refuse_old_snapshot(%1$L)))$view$, model_name);
  EXECUTE format('GRANT SELECT ON scores.%I TO score_reader', model_name);
END $function$;
REVOKE ALL ON FUNCTION ingest.create_scores_view FROM PUBLIC;

CREATE OR REPLACE FUNCTION ingest.attach_revision(id integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET default_statistics_target = ${STATISTICS_TARGET} AS $function$
DECLARE
  model_name text;
  parent text;
  partition text;
  is_pending boolean;
  has_first boolean;
BEGIN
  SELECT model INTO model_name FROM ingest.run_revision WHERE revision_id = id AND retired_at IS NULL;
  IF NOT FOUND THEN RAISE EXCEPTION 'Revision % does not exist, or its rows were removed.', id; END IF;
  parent := format('run_data.%I', model_name);
  partition := format('run_data.%I', model_name || '$' || id);
  SELECT inhdetachpending INTO is_pending FROM pg_inherits WHERE inhrelid = partition::regclass;
  IF NOT is_pending THEN RETURN; END IF;
  -- A sweep that was killed, or waits for readers, has left it like this.
  IF is_pending THEN EXECUTE format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', parent, partition); END IF;
  -- The views look for it. COPY into a new table begins with it, and nothing deletes it.
  EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE ctid = ''(0,1)'')', partition) INTO has_first;
  IF NOT has_first THEN RAISE EXCEPTION 'The table % does not begin with a row: no reader would see it.', partition; END IF;
  -- The CHECK of the partition proves that every row fits: PostgreSQL reads none.
  EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES IN (%s)', parent, partition, id);
  -- Autovacuum never does it for a partitioned table, and without it every join of the view is planned as if keys were
  -- not unique. Before PostgreSQL 18 this also reads each partition for itself; one that is locked is skipped.
  EXECUTE format(
    'ANALYZE (SKIP_LOCKED) %s %s',
    CASE WHEN current_setting('server_version_num')::integer >= 180000 THEN 'ONLY' END, parent);
END $function$;
REVOKE ALL ON FUNCTION ingest.attach_revision FROM PUBLIC;
`;
