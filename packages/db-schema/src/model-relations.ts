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
CREATE OR REPLACE FUNCTION ingest.refuse_old_snapshot(model_name text, id integer) RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  -- This reads PostgreSQL's caches, which know the attached partitions of this moment, whatever snapshot the
  -- reader has. An attached one is the model's first run, just published, which the reader's plan does not
  -- contain yet.
  IF pg_partition_root(to_regclass(format('run_data.%I', model_name || '$' || id))) IS NOT NULL THEN RETURN NULL; END IF;
  RAISE EXCEPTION 'The runs of model "%" in this transaction''s snapshot were removed by retention.', model_name
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
  -- A reader with an old snapshot that reads the view for the first time after retention has dropped every
  -- run in the snapshot would see no row either: it gets an error.
  --
  -- The columns of the run come from a LEFT JOIN on a key, which the planner omits when a query does not
  -- select them.
  --
  EXECUTE format($view$
    CREATE VIEW scores.%1$I AS
    SELECT d.pk, d.score, d.attributes, r.run_key AS run, r.as_of, r.published_at
    FROM run_data.%1$I d
    LEFT JOIN ingest.run_revision r ON r.revision_id = d.revision_id
    WHERE d.revision_id = coalesce(
      (SELECT p.revision_id
       FROM ingest.publication p
       WHERE p.model = %1$L
         AND (SELECT true FROM run_data.%1$I probe WHERE probe.revision_id = p.revision_id LIMIT 1)
       ORDER BY p.publication_id DESC
       LIMIT 1),
      (SELECT ingest.refuse_old_snapshot(p.model, p.revision_id)
       FROM ingest.publication p WHERE p.model = %1$L ORDER BY p.publication_id DESC LIMIT 1))$view$, model_name);
  EXECUTE format('GRANT SELECT ON scores.%I TO score_reader', model_name);
END $function$;
REVOKE ALL ON FUNCTION ingest.create_scores_view FROM PUBLIC;

CREATE OR REPLACE FUNCTION ingest.attach_revision(id integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE model_name text;
BEGIN
  SELECT model INTO model_name FROM ingest.run_revision WHERE revision_id = id AND retired_at IS NULL;
  IF NOT FOUND THEN RAISE EXCEPTION 'Revision % does not exist, or its rows were removed.', id; END IF;
  IF EXISTS (
    SELECT FROM pg_inherits
    WHERE inhrelid = format('run_data.%I', model_name || '$' || id)::regclass) THEN RETURN; END IF;
  -- The CHECK of the partition proves that every row fits: PostgreSQL reads none.
  EXECUTE format(
    'ALTER TABLE run_data.%I ATTACH PARTITION run_data.%I FOR VALUES IN (%s)', model_name, model_name || '$' || id, id);
END $function$;
REVOKE ALL ON FUNCTION ingest.attach_revision FROM PUBLIC;
`;
