import { sql, type Transaction } from 'kysely';
import pg from 'pg';

const ROLES = ['ingest_api', 'ingest_loader', 'score_reader'] as const;

/**
 * What a list of applied migrations cannot promise, and what `migrate` therefore puts right each time: the functions,
 * who owns what, and who may do what. pg_restore into a server without the roles loses all of it. `ingest_loader`
 * owns the tables of scores, the owner of the database everything else; the service and readers own nothing.
 *
 * @returns what was not as it should be, one phrase each; nothing of what a migration has just made (`isNew`).
 * @throws when something belongs to a role that the login is not a member of.
 */
export async function putAccessRight(trx: Transaction<never>, isNew: boolean): Promise<readonly string[]> {
  const owner = await ownerOfDatabase(trx);
  await refuseForeignOwners(trx, owner);
  const before = await accessOf(trx);
  await run(trx, FUNCTIONS);
  await run(trx, OWNERS(owner));
  await run(trx, GRANTS);
  const after = await accessOf(trx);
  if (isNew) return [];
  return [...new Set([...before.keys(), ...after.keys()])]
    .sort()
    .flatMap((object) => difference(object, before.get(object), after.get(object)));
}

function difference(
  object: string,
  before: Access | undefined,
  after: Access | undefined,
): readonly string[] {
  if (before === undefined) return [`${object}: made`];
  if (after === undefined) return [`${object}: removed`];
  return [
    ...(before.owner === after.owner ? [] : [`${object}: owner ${after.owner} instead of ${before.owner}`]),
    ...(before.rights === after.rights ? [] : [`${object}: grants`]),
    ...(before.body === after.body ? [] : [`${object}: definition`]),
  ];
}

/**
 * Roles belong to the server, not to a database: another database's migration may have made them already, and a
 * restored database brings none. Whoever migrates, and the owner of the database, are members of all three: so the
 * owner can work as the service does (`ingest-api token create`) and attach what the loader made.
 *
 * @returns what it made, one phrase each.
 * @throws when the login may not; the message holds the statements for whoever may.
 */
export async function createRoles(trx: Transaction<never>): Promise<readonly string[]> {
  const owner = await ownerOfDatabase(trx);
  const { rows } = await sql<{ statement: string; made: string }>`
    SELECT format('CREATE ROLE %I NOLOGIN', name) AS statement, 'role ' || name || ': made' AS made
    FROM unnest(${sql.val(ROLES)}::text[]) name WHERE to_regrole(name) IS NULL
    UNION ALL
    SELECT format('GRANT %I TO %I', name, member), 'role ' || name || ': ' || member || ' is a member'
    FROM unnest(${sql.val(ROLES)}::text[]) name,
         (SELECT rolname AS member FROM pg_roles WHERE NOT rolsuper AND rolname IN (current_user, ${owner})) m
    WHERE to_regrole(name) IS NULL OR NOT pg_has_role(member, to_regrole(name), 'USAGE')
    ORDER BY 1`.execute(trx);
  for (const { statement } of rows) {
    try {
      await run(trx, statement);
    } catch (error) {
      if (!(error instanceof pg.DatabaseError) || error.code !== '42501') throw error;
      const missing = rows.map((row) => `${row.statement};`).join(' ');
      throw new Error(
        `The service needs the roles ${ROLES.join(', ')}, and this login may not make them or become a member. Nothing was changed. Let a superuser, or a role with CREATEROLE and ADMIN OPTION on them, run this once, and run "migrate" again: ${missing}`,
        { cause: error },
      );
    }
  }
  return rows.map(({ made }) => made);
}

/** Who is to own what the loader does not: the owner of the database, if the login may act as that; else the login. */
async function ownerOfDatabase(trx: Transaction<never>): Promise<string> {
  const { rows } = await sql<{ owner: string }>`
    SELECT CASE WHEN pg_has_role(datdba, 'USAGE') THEN pg_get_userbyid(datdba) ELSE current_user END AS owner
    FROM pg_database WHERE datname = current_database()`.execute(trx);
  if (rows[0] === undefined) throw new Error('PostgreSQL did not tell the owner of the database.');
  return rows[0].owner;
}

/** What a superuser restored belongs to the superuser: its owner has to hand it over first. */
async function refuseForeignOwners(trx: Transaction<never>, owner: string): Promise<void> {
  const { rows } = await sql<{ who: string; objects: string[] }>`
    SELECT pg_get_userbyid(owner) AS who, array_agg(name ORDER BY name) AS objects
    FROM (${sql.raw(OBJECTS)}) it WHERE NOT pg_has_role(owner, 'USAGE') GROUP BY owner LIMIT 1`.execute(trx);
  const [foreign] = rows;
  if (foreign === undefined) return;
  const some = foreign.objects.slice(0, 3).join(', ');
  throw new Error(
    `${foreign.objects.length} objects (${some}, …) belong to ${foreign.who}, and this login is not a member of that role. Nothing was changed. Run "migrate" once as ${foreign.who} or as a superuser: it hands them to ${owner}.`,
  );
}

async function run(trx: Transaction<never>, statements: string): Promise<void> {
  await sql.raw(statements).execute(trx);
}

/** Everything that `migrate` answers for. */
const OBJECTS = `
  SELECT 'schema ' || nspname AS name, nspowner AS owner, nspacl AS acl, 'n' AS kind, NULL AS body, nspname AS schema
  FROM pg_namespace WHERE nspname IN ('ingest', 'run_data', 'scores')
  UNION ALL
  SELECT CASE c.relkind WHEN 'v' THEN 'view ' ELSE 'table ' END || c.oid::regclass, c.relowner, c.relacl, c.relkind, NULL, n.nspname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname IN ('ingest', 'run_data', 'scores') AND c.relkind IN ('r', 'p', 'v')
  UNION ALL
  SELECT 'function ' || p.oid::regprocedure, p.proowner, p.proacl, 'f', p.prosrc, n.nspname
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('ingest', 'run_data', 'scores')`;

const OWNERS = (owner: string) => `
DO $$
DECLARE it record;
BEGIN
  FOR it IN
    SELECT format('ALTER %s OWNER TO %I', name, wanted) AS command
    FROM (SELECT name, owner, kind,
                 CASE WHEN schema = 'run_data' AND kind IN ('r', 'p') THEN 'ingest_loader' ELSE ${pg.escapeLiteral(owner)} END AS wanted
          FROM (${OBJECTS}) o) w
    WHERE pg_get_userbyid(owner) <> wanted
    ORDER BY kind <> 'n' -- the schemas first: whom a table is given to must be able to make one there
  LOOP
    IF it.command LIKE '%TO ingest_loader' THEN GRANT CREATE ON SCHEMA run_data TO ingest_loader; END IF;
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
GRANT SELECT, INSERT, UPDATE ON ingest.store TO ingest_api, ingest_loader;
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

interface Access {
  readonly owner: string;
  readonly rights: string;
  readonly body: string | null;
}

async function accessOf(trx: Transaction<never>): Promise<ReadonlyMap<string, Access>> {
  const { rows } = await sql<Access & { name: string }>`
    SELECT name, pg_get_userbyid(owner) AS owner, body, coalesce((
      SELECT string_agg(grantee || ':' || privilege_type || ':' || is_grantable, ' ' ORDER BY grantee, privilege_type)
      FROM aclexplode(acl) WHERE grantee <> owner), '') AS rights
    FROM (
      ${sql.raw(OBJECTS)}
      UNION ALL
      SELECT 'table ' || a.attrelid::regclass || ', column ' || a.attname, c.relowner, a.attacl, 'c', NULL, n.nspname
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname IN ('ingest', 'run_data', 'scores') AND a.attacl <> '{}') it`.execute(trx);
  return new Map(rows.map(({ name, ...access }) => [name, access]));
}
