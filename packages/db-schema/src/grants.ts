import type { Client, PoolClient } from 'pg';

type SqlClient = Client | PoolClient;

/**
 * What a list of applied migrations cannot promise, and what `migrate` therefore puts right each time: the roles
 * (they belong to the server, and pg_restore does not bring them), the functions, who owns what, and who may do what.
 * Must run as the owner of the database, inside one transaction.
 *
 * @returns what was not as it should be, one phrase each.
 */
export async function putAccessRight(client: SqlClient): Promise<readonly string[]> {
  const before = await accessList(client);
  await client.query(OWNERS);
  await client.query(FUNCTIONS);
  await client.query(GRANTS);
  const after = await accessList(client);
  const changed = [...new Set([...before.keys(), ...after.keys()])].filter(
    (object) => before.get(object) !== after.get(object),
  );
  return changed.sort();
}

/** Roles belong to the whole server, not to one database: another database's migration may have made them already. */
export async function createRoles(client: SqlClient): Promise<void> {
  await client.query(ROLES);
}

const ROLES = `
DO $$
DECLARE role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['ingest_api', 'ingest_loader', 'score_reader'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- made by another database's migration just now
    END;
    -- So that the owner can work as the service does (\`ingest-api token create\`) and attach what the loader made.
    IF NOT pg_has_role(CURRENT_USER, role_name, 'USAGE') THEN
      EXECUTE format('GRANT %I TO CURRENT_USER', role_name);
    END IF;
  END LOOP;
END $$`;

/** The tables of scores belong to the loader, everything else to whoever migrates. */
const OWNERS = `
DO $$
DECLARE it record;
BEGIN
  FOR it IN
    SELECT format('ALTER TABLE %s OWNER TO ingest_loader', c.oid::regclass) AS command
    FROM pg_class c
    WHERE c.relnamespace = 'run_data'::regnamespace AND c.relkind IN ('r', 'p')
      AND c.relowner <> 'ingest_loader'::regrole
  LOOP
    GRANT CREATE ON SCHEMA run_data TO ingest_loader; -- whom a table is given to must be able to make one
    EXECUTE it.command;
  END LOOP;
END $$`;

/**
 * What a role may do through a function, and not by itself: the loader makes the view of a model without being able
 * to put anything else into \`scores\`; the service attaches a partition without being able to read or change it.
 */
const FUNCTIONS = `
CREATE OR REPLACE FUNCTION ingest.refuse_old_snapshot(model_name text, id integer) RETURNS integer
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  -- Read from PostgreSQL's caches, which know what is attached now, whatever snapshot the reader has. An attached one
  -- is the model's first run, published a moment ago, which the reader's plan does not hold yet.
  IF pg_partition_root(to_regclass(format('run_data.%I', model_name || '$' || id))) IS NOT NULL THEN RETURN NULL; END IF;
  RAISE EXCEPTION 'The runs of model "%" that this transaction''s snapshot knows were removed by retention.', model_name
    USING ERRCODE = 'serialization_failure', HINT = 'End the transaction and begin a new one: it sees the run that is published now.';
END $function$;
-- Called by the views of schema scores, for whoever may read one of them.
GRANT EXECUTE ON FUNCTION ingest.refuse_old_snapshot TO PUBLIC;

CREATE OR REPLACE FUNCTION ingest.create_scores_view(model_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  PERFORM FROM ingest.model WHERE name = model_name;
  IF NOT FOUND THEN RAISE EXCEPTION 'There is no model "%".', model_name; END IF;
  -- The newest publication whose partition this reader can see.
  --
  -- A reader whose plan was made before a partition was attached, but whose snapshot was taken after the
  -- publication committed, has no such partition in its plan: with a bare pointer it would see no row at all
  -- (docs/decisions/0003). The probe makes it see the run before, whole, instead. The probe is planned before
  -- the table it guards, so what the probe finds is always there to be read.
  --
  -- A reader with an old snapshot, who looks here for the first time when retention has dropped every run that the
  -- snapshot knows, would see no row either: it gets an error.
  --
  -- The run's own columns come by a LEFT JOIN on a key, which the planner leaves out when nobody asks for them.
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
  -- Its CHECK tells PostgreSQL that every row fits: nothing is read.
  EXECUTE format(
    'ALTER TABLE run_data.%I ATTACH PARTITION run_data.%I FOR VALUES IN (%s)', model_name, model_name || '$' || id, id);
END $function$;
REVOKE ALL ON FUNCTION ingest.attach_revision FROM PUBLIC;
`;

/** The API never reads a score; the loader owns the scores; a reader sees the views and nothing else. */
const GRANTS = `
REVOKE ALL ON SCHEMA run_data, scores, ingest FROM PUBLIC, ingest_api, ingest_loader, score_reader;
GRANT USAGE, CREATE ON SCHEMA run_data TO ingest_loader;
GRANT USAGE ON SCHEMA scores TO score_reader, ingest_loader;
GRANT USAGE ON SCHEMA ingest TO ingest_api, ingest_loader;

REVOKE ALL ON ALL TABLES IN SCHEMA ingest FROM PUBLIC, ingest_api, ingest_loader, score_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON
  ingest.api_token, ingest.model, ingest.run, ingest.run_revision, ingest.publication, ingest.upload, ingest.writer,
  ingest.run_file, ingest.load_attempt, ingest.rejected_line TO ingest_api;
GRANT SELECT, INSERT, DELETE ON ingest.session TO ingest_api;
GRANT SELECT ON ingest.audit_event TO ingest_api;
GRANT SELECT, UPDATE ON ingest.sweep TO ingest_api, ingest_loader; -- to lock a row of it

GRANT SELECT ON ingest.model, ingest.run, ingest.upload, ingest.run_file TO ingest_loader;
GRANT UPDATE (contract) ON ingest.model TO ingest_loader; -- SELECT … FOR NO KEY UPDATE asks for a right to update
GRANT SELECT, UPDATE ON ingest.run_revision TO ingest_loader;
GRANT UPDATE (offset_bytes, received_at, last_progress_at, removed_at, writer) ON ingest.upload TO ingest_loader; -- what a load finds lost
GRANT SELECT, INSERT, UPDATE ON ingest.load_attempt TO ingest_loader;
GRANT SELECT, INSERT, DELETE ON ingest.rejected_line TO ingest_loader;
GRANT SELECT, INSERT ON ingest.publication TO ingest_loader;
GRANT SELECT ON ingest.audit_event TO ingest_loader;
-- Neither chooses when an event happened.
GRANT INSERT (actor, action, model, run_key, revision, detail) ON ingest.audit_event TO ingest_api, ingest_loader;

GRANT EXECUTE ON FUNCTION ingest.create_scores_view TO ingest_loader;
GRANT EXECUTE ON FUNCTION ingest.attach_revision TO ingest_api, ingest_loader;

DO $$
DECLARE view_name text;
BEGIN
  FOR view_name IN SELECT viewname FROM pg_views WHERE schemaname = 'scores' LOOP
    EXECUTE format('GRANT SELECT ON scores.%I TO score_reader', view_name);
  END LOOP;
END $$;
`;

/** Owner and access list of everything that `migrate` answers for, by the object's name. */
async function accessList(client: SqlClient): Promise<ReadonlyMap<string, string>> {
  const { rows } = await client.query<{ object: string; access: string }>(`
    WITH object AS (
      SELECT 'schema ' || nspname AS name, nspowner AS owner, nspacl AS acl FROM pg_namespace
      WHERE nspname IN ('ingest', 'run_data', 'scores')
      UNION ALL
      SELECT c.oid::regclass::text, c.relowner, c.relacl FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname IN ('ingest', 'run_data', 'scores') AND c.relkind IN ('r', 'p', 'v')
      UNION ALL
      SELECT a.attrelid::regclass || '.' || a.attname, 0, a.attacl
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'ingest' AND a.attacl IS NOT NULL
      UNION ALL
      SELECT 'function ' || p.oid::regprocedure, p.proowner, p.proacl FROM pg_proc p
      WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'ingest'))
    SELECT name AS object, owner || ' ' || coalesce((
      SELECT string_agg(grantee || ':' || privilege_type, ' ' ORDER BY grantee, privilege_type)
      FROM aclexplode(acl) WHERE grantee <> owner), '') AS access
    FROM object`);
  return new Map(rows.map(({ object, access }) => [object, access]));
}
