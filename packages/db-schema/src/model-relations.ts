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
 * The relations of a model, which its row in `ingest.model` creates, and what a role may do only through a function:
 * the service attaches a partition, but can neither read nor change it; the loader lists a run in the history, but
 * creates nothing in the schemas that applications read. `migrate` creates them again each time.
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

-- A model has its views from the moment that it exists, so that access can be granted before its first run, and a query
-- of a model that was never published is empty instead of an error.
CREATE OR REPLACE FUNCTION ingest.create_model_relations() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
-- A partitioned table refuses a default_tablespace that is the database's own.
SET search_path = pg_catalog, pg_temp SET default_tablespace = '' AS $function$
DECLARE
  it record;
BEGIN
  EXECUTE format('
    CREATE TABLE run_data.%1$I (
      score double precision NOT NULL,
      revision_id integer NOT NULL,
      pk text COLLATE "C" NOT NULL,
      attributes jsonb
    ) PARTITION BY LIST (revision_id);
    ALTER TABLE run_data.%1$I OWNER TO ingest_loader', NEW.name);
  -- The view shows the newest publication whose partition the reader can see.
  --
  -- A reader whose plan was made before a partition was attached, but whose snapshot was taken after the
  -- publication committed, does not have this partition in its plan: with a bare pointer it would see no row
  -- at all (docs/decisions/0003). With the probe it sees the previous run, complete. The probe is planned
  -- before the table that it guards, so that the table always contains what the probe found.
  --
  -- The probe reads one row of a partition by its address: a search for another revision_id in a partition that is
  -- alone in the plan would read all of it. That is the first row, or another one if the first was erased; after a
  -- restore from a dump there is a first row again. A run whose rows were all erased has none to probe (NULL).
  -- OFFSET 0 keeps the order, so that the first publication that is there ends it.
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
       FROM (SELECT revision_id, first_row FROM ingest.publication
             WHERE model = %1$L ORDER BY publication_id DESC OFFSET 0) p
       WHERE p.first_row IS NULL
          OR (SELECT true FROM run_data.%1$I probe
              WHERE probe.revision_id = p.revision_id AND probe.ctid = ANY (ARRAY['(0,1)', p.first_row]) LIMIT 1)
       LIMIT 1),
      ingest.refuse_old_snapshot(%1$L)))$view$, NEW.name);
  EXECUTE format('COMMENT ON VIEW scores.%1$I IS %2$L', NEW.name,
    format('the scores of model %s: exactly one whole run, the one that is published now', NEW.name));
  PERFORM ingest.list_history(NEW.name);
  EXECUTE format('COMMENT ON VIEW scores_history.%1$I IS %2$L', NEW.name,
    format('the scores of model %s in each run that was published and whose rows are kept', NEW.name));
  FOR it IN
    SELECT format('COMMENT ON COLUMN %I.%I.%I IS %L', schema_name, NEW.name, column_name, meaning) AS command
    FROM unnest(ARRAY['scores', 'scores_history']) schema_name, (VALUES
      ('pk', 'key, compared byte by byte (COLLATE "C"); unique within a run'),
      ('score', 'never NULL, NaN or infinite'),
      ('attributes', 'other keys of the line; NULL when there are none'),
      ('run', 'key of the run, for example 2026-11'),
      ('revision', 'number of the content that was pushed under this run key'),
      ('as_of', 'date of the run'),
      ('published_at', 'when the run was last published; a rollback to it counts')) known (column_name, meaning)
    WHERE schema_name = 'scores_history' OR column_name <> 'revision'
  LOOP EXECUTE it.command; END LOOP;
  EXECUTE format('GRANT SELECT ON scores.%1$I TO score_reader; GRANT SELECT ON scores_history.%1$I TO score_history_reader', NEW.name);
  RETURN NULL;
END $function$;
REVOKE ALL ON FUNCTION ingest.create_model_relations FROM PUBLIC;
CREATE OR REPLACE TRIGGER model_has_relations AFTER INSERT ON ingest.model
  FOR EACH ROW EXECUTE FUNCTION ingest.create_model_relations();

-- The columns of scores_typed.<model> for the attributes that a contract declares; NULL when it declares none. Names come
-- from operators: %I and %L quote them. A value that does not have the type shows as NULL, because the published run may
-- have been loaded under another contract, and one such value must not fail a reader's whole query.
CREATE OR REPLACE FUNCTION ingest.typed_columns(contract jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
  SELECT string_agg(format(CASE it ->> 'type'
    WHEN 'string' THEN $column$, CASE jsonb_typeof(s.attributes -> %1$L) WHEN 'string' THEN s.attributes ->> %1$L END AS %1$I$column$
    WHEN 'boolean' THEN $column$, CASE jsonb_typeof(s.attributes -> %1$L) WHEN 'boolean' THEN (s.attributes -> %1$L)::boolean END AS %1$I$column$
    WHEN 'integer' THEN $column$, CASE jsonb_typeof(s.attributes -> %1$L) WHEN 'number' THEN
      CASE WHEN (s.attributes -> %1$L)::numeric BETWEEN -9223372036854775808 AND 9223372036854775807
            AND scale(trim_scale((s.attributes -> %1$L)::numeric)) = 0
      THEN (s.attributes -> %1$L)::bigint END END AS %1$I$column$
    -- Limits of double precision: PostgreSQL refuses to round a larger number to infinity, and a smaller one to zero.
    WHEN 'number' THEN $column$, CASE jsonb_typeof(s.attributes -> %1$L) WHEN 'number' THEN
      CASE WHEN (s.attributes -> %1$L)::numeric = 0
             OR abs((s.attributes -> %1$L)::numeric) BETWEEN 2.4703282292062328e-324 AND 1.7976931348623158e308
      THEN (s.attributes -> %1$L)::double precision END END AS %1$I$column$
    END, it ->> 'name'), '' ORDER BY place)
  FROM jsonb_array_elements(contract -> 'attributes') WITH ORDINALITY list (it, place)
$function$;
REVOKE ALL ON FUNCTION ingest.typed_columns FROM PUBLIC;

-- Creates, replaces or drops the typed view of a model with its contract, in one transaction. Only new columns at the end
-- can be added to a view as it is; any other change drops it, keeps what was granted, and is refused while other objects
-- depend on it. A change waits for statements that read the view, and makes new ones wait for it: for 1 s at most.
CREATE OR REPLACE FUNCTION ingest.set_typed_view() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $function$
DECLARE
  view_name text := format('scores_typed.%I', NEW.name);
  columns text := ingest.typed_columns(NEW.contract);
  definition text := format('SELECT s.*%s FROM scores.%I s', columns, NEW.name);
  grants text;
  dependents text;
  it record;
BEGIN
  IF TG_OP = 'UPDATE' AND (columns IS NULL) = (to_regclass(view_name) IS NULL) THEN
    IF columns IS NOT DISTINCT FROM ingest.typed_columns(OLD.contract) THEN RETURN NULL; END IF;
  END IF;
  IF columns IS NULL THEN
    EXECUTE format('DROP VIEW IF EXISTS %s', view_name);
    RETURN NULL;
  END IF;
  BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', view_name, definition);
  EXCEPTION WHEN invalid_table_definition THEN
    SELECT coalesce(string_agg(format('GRANT %s ON %s TO %s%s;', privilege_type, view_name,
             CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
             CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END), ''), '') INTO grants
    FROM pg_class c, aclexplode(c.relacl) WHERE c.oid = view_name::regclass AND grantee <> c.relowner;
    EXECUTE format('DROP VIEW %s', view_name);
    EXECUTE format('CREATE VIEW %s AS %s', view_name, definition);
    EXECUTE grants;
  END;
  EXECUTE format('GRANT SELECT ON %s TO score_reader', view_name);
  EXECUTE format('COMMENT ON VIEW %s IS %L', view_name,
    format('the columns of scores.%s, and one for each attribute that the contract of the model declares', NEW.name));
  FOR it IN
    -- The columns of scores.<model> come first, so that they have the same numbers in both views.
    SELECT format('COMMENT ON COLUMN %s.%I IS %L', view_name, attname, coalesce(
             col_description(to_regclass(format('scores.%I', NEW.name)), attnum),
             'attribute of the line; NULL when the line does not have it, or it is of another type')) AS command
    FROM pg_attribute WHERE attrelid = view_name::regclass AND attnum > 0
  LOOP EXECUTE it.command; END LOOP;
  RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
  RAISE EXCEPTION 'Statements that read the view % have not ended within 1 s, so its columns cannot be changed now.', view_name
    USING ERRCODE = 'object_in_use';
WHEN dependent_objects_still_exist THEN
  GET STACKED DIAGNOSTICS dependents = PG_EXCEPTION_DETAIL;
  RAISE EXCEPTION 'Columns of the view % would be removed or changed, and other objects depend on it: %.',
    view_name, replace(dependents, E'\n', '; ')
    USING ERRCODE = 'dependent_objects_still_exist';
END $function$;
REVOKE ALL ON FUNCTION ingest.set_typed_view FROM PUBLIC;
-- After model_has_relations, which creates the view that this one reads: triggers run in the order of their names.
CREATE OR REPLACE TRIGGER model_has_typed_view AFTER INSERT OR UPDATE OF contract ON ingest.model
  FOR EACH ROW EXECUTE FUNCTION ingest.set_typed_view();

-- The history of a model reads each listed run from its own table, attached or not, and every other run that is attached
-- through the model's table. Its caller lists a run before it detaches it, and removes a run that retention has marked
-- from the list before it drops its table. As the run is a constant in its part of the view, a query of one run reads
-- one table. Rows of COPY FREEZE are visible to every snapshot: the row in shown_run is what hides a run from a transaction
-- that began before its publication.
CREATE OR REPLACE FUNCTION ingest.list_history(model_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  view_name text := format('scores_history.%I', model_name);
  listed bigint[];
  wanted bigint[];
  ids integer[];
  parts text;
BEGIN
  SELECT coalesce(array_agg(DISTINCT c.oid::bigint ORDER BY c.oid::bigint), '{}') INTO listed
  FROM pg_rewrite w
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_class c ON c.oid = d.refobjid AND c.relkind = 'r' AND c.relnamespace = 'run_data'::regnamespace
  WHERE w.ev_class = to_regclass(view_name);
  SELECT coalesce(array_agg(c.oid::bigint ORDER BY c.oid::bigint), '{}'), coalesce(array_agg(r.revision_id), '{}'),
         coalesce(string_agg(format($part$
           UNION ALL
           SELECT pk, score, attributes, %1$L::text, %2$s, %3$L::timestamptz,
                  (SELECT published_at FROM ingest.shown_run WHERE revision_id = %4$s)
           FROM run_data.%5$I WHERE EXISTS (SELECT FROM ingest.shown_run WHERE revision_id = %4$s)$part$,
           r.run_key, r.revision, r.as_of, r.revision_id, c.relname), '' ORDER BY r.revision_id), '')
  INTO wanted, ids, parts
  FROM ingest.run_revision r
  JOIN pg_class c ON c.relname = r.model || '$' || r.revision_id AND c.relkind = 'r'
    AND c.relnamespace = 'run_data'::regnamespace
  -- Held runs, and runs that were loaded behind a later one, were never published.
  WHERE r.model = model_name AND r.published_at IS NOT NULL AND r.retired_at IS NULL;
  IF listed = wanted AND to_regclass(view_name) IS NOT NULL THEN RETURN; END IF;
  EXECUTE format($view$
    CREATE OR REPLACE VIEW %s AS
    SELECT d.pk, d.score, d.attributes, r.run_key AS run, r.revision, r.as_of, s.published_at
    FROM run_data.%I d JOIN ingest.run_revision r ON r.revision_id = d.revision_id AND r.retired_at IS NULL
    JOIN ingest.shown_run s ON s.revision_id = d.revision_id
    WHERE d.revision_id <> ALL (%L::integer[])$view$, view_name, model_name, ids) || parts;
END $function$;
REVOKE ALL ON FUNCTION ingest.list_history FROM PUBLIC;

CREATE OR REPLACE FUNCTION ingest.attach_revision(id integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET default_statistics_target = ${STATISTICS_TARGET} AS $function$
DECLARE
  model_name text;
  probed tid;
  parent text;
  partition text;
  is_pending boolean;
  has_first boolean;
BEGIN
  SELECT model, first_row INTO model_name, probed FROM ingest.run_revision WHERE revision_id = id AND retired_at IS NULL;
  IF NOT FOUND THEN RAISE EXCEPTION 'Revision % does not exist, or its rows were removed.', id; END IF;
  parent := format('run_data.%I', model_name);
  partition := format('run_data.%I', model_name || '$' || id);
  SELECT inhdetachpending INTO is_pending FROM pg_inherits WHERE inhrelid = partition::regclass;
  IF NOT is_pending THEN RETURN; END IF;
  -- A sweep that was killed, or waits for readers, has left it like this.
  IF is_pending THEN EXECUTE format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', parent, partition); END IF;
  -- The views look for it. COPY into a new table begins with it; an erasure that deletes it names another one.
  EXECUTE format('SELECT $1 IS NULL OR EXISTS (SELECT FROM %s WHERE ctid = ANY (ARRAY[''(0,1)'', $1]))', partition)
    INTO has_first USING probed;
  IF NOT has_first THEN RAISE EXCEPTION 'The table % does not have the row that readers look for: none would see it.', partition; END IF;
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
