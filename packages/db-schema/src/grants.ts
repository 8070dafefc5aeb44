import { sql, type Transaction } from 'kysely';
import pg from 'pg';
import { MODEL_FUNCTIONS } from './model-relations.ts';

const ROLES = ['ingest_api', 'ingest_loader', 'score_reader', 'score_history_reader'] as const;

const SCHEMAS = "'ingest', 'run_data', 'scores', 'scores_history', 'scores_info', 'scores_typed'";

/**
 * Roles belong to the server, not to a database: the migration of another database may have created them, and
 * a restored database brings none. The login that migrates and the owner of the database become members of
 * all of them, so that the owner can work as the service (`ingest-api token create`) and attach the loader's
 * tables.
 *
 * @returns what it changed, one phrase each.
 * @throws when the login lacks the right; the message contains the statements for a login that has it.
 */
export async function createRoles(trx: Transaction<never>): Promise<readonly string[]> {
  const owner = await ownerOfDatabase(trx);
  const { rows } = await sql<{ statement: string; change: string }>`
    SELECT format('CREATE ROLE %I NOLOGIN', name) AS statement, 'role ' || name || ': created' AS change
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
        `The service needs the roles ${ROLES.join(', ')}, and this login may not create them or become a member. Nothing was changed. Run these statements once as a superuser, or as a role with CREATEROLE and ADMIN OPTION on them, and run "migrate" again: ${missing}`,
        { cause: error },
      );
    }
  }
  return rows.map(({ change }) => change);
}

/**
 * Sets functions, owners and grants at every `migrate`: a list of applied migrations does not guarantee them,
 * and pg_restore into a server without the roles loses them. `ingest_loader` owns the tables of scores, the
 * owner of the database owns everything else; the service and readers own nothing.
 *
 * @returns what it changed, one phrase each; empty after a migration (`isNew`), which has just created
 *   everything.
 * @throws when an object belongs to a role that the login is not a member of.
 */
export async function setAccess(trx: Transaction<never>, isNew: boolean): Promise<readonly string[]> {
  const owner = await ownerOfDatabase(trx);
  await refuseForeignOwners(trx, owner);
  const before = await accessOf(trx);
  await run(trx, MODEL_FUNCTIONS);
  await run(trx, OWNERS(owner));
  await run(trx, GRANTS);
  const after = await accessOf(trx);
  if (isNew) return [];
  return [...new Set([...before.keys(), ...after.keys()])]
    .sort()
    .flatMap((object) => difference(object, before.get(object), after.get(object)));
}

/**
 * The owner of all but the loader's tables: the owner of the database if the login may act as it, else the
 * login.
 */
async function ownerOfDatabase(trx: Transaction<never>): Promise<string> {
  const { rows } = await sql<{ owner: string }>`
    SELECT CASE WHEN pg_has_role(datdba, 'USAGE') THEN pg_get_userbyid(datdba) ELSE current_user END AS owner
    FROM pg_database WHERE datname = current_database()`.execute(trx);
  if (rows[0] === undefined) throw new Error('PostgreSQL did not return the owner of the database.');
  return rows[0].owner;
}

/** Objects that a superuser restored belong to the superuser, and only their owner can hand them over. */
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

/** The objects whose owners and grants `migrate` sets. */
const OBJECTS = `
  SELECT 'schema ' || nspname AS name, nspowner AS owner, nspacl AS acl, 'n' AS kind, NULL AS body, nspname AS schema
  FROM pg_namespace WHERE nspname IN (${SCHEMAS})
  UNION ALL
  SELECT CASE c.relkind WHEN 'v' THEN 'view ' ELSE 'table ' END || c.oid::regclass, c.relowner, c.relacl, c.relkind, NULL, n.nspname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname IN (${SCHEMAS}) AND c.relkind IN ('r', 'p', 'v')
  UNION ALL
  SELECT 'function ' || p.oid::regprocedure, p.proowner, p.proacl, 'f', p.prosrc, n.nspname
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN (${SCHEMAS})`;

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
    ORDER BY kind <> 'n' -- schemas first: the new owner of a table must have CREATE on its schema
  LOOP
    IF it.command LIKE '%TO ingest_loader' THEN GRANT CREATE ON SCHEMA run_data TO ingest_loader; END IF;
    EXECUTE it.command;
  END LOOP;
END $$`;

/** The API never reads a score; the loader owns the scores; a reader sees the views and nothing else. Grants to other logins are kept. */
const GRANTS = `
REVOKE ALL ON SCHEMA run_data, scores, scores_history, scores_info, scores_typed, ingest FROM PUBLIC, ingest_api, ingest_loader, score_reader, score_history_reader;
GRANT USAGE, CREATE ON SCHEMA run_data TO ingest_loader;
GRANT USAGE ON SCHEMA scores, scores_typed TO score_reader;
GRANT USAGE ON SCHEMA scores_history TO score_history_reader;
-- It shows a login only the models whose views it may read.
GRANT USAGE ON SCHEMA scores_info TO PUBLIC;
GRANT SELECT ON scores_info.models TO PUBLIC;
GRANT USAGE ON SCHEMA ingest TO ingest_api, ingest_loader;

REVOKE ALL ON ALL TABLES IN SCHEMA ingest FROM PUBLIC, ingest_api, ingest_loader, score_reader, score_history_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON
  ingest.api_token, ingest.model, ingest.run, ingest.run_revision, ingest.publication, ingest.upload, ingest.upload_segment, ingest.writer,
  ingest.run_file, ingest.load_attempt, ingest.rejected_line TO ingest_api;
GRANT SELECT, INSERT, DELETE ON ingest.session TO ingest_api;
GRANT SELECT ON ingest.audit_event, ingest.newest_revision TO ingest_api;
GRANT SELECT, INSERT, DELETE ON ingest.tally TO ingest_api; -- to add up its rows
GRANT SELECT ON ingest.published_run TO ingest_api, ingest_loader;
GRANT SELECT, INSERT, UPDATE ON ingest.store TO ingest_api, ingest_loader;
GRANT SELECT, UPDATE ON ingest.sweep TO ingest_api, ingest_loader; -- to lock a row of it

GRANT SELECT ON ingest.model, ingest.run, ingest.upload, ingest.run_file TO ingest_loader;
GRANT SELECT, DELETE ON ingest.upload_segment TO ingest_loader;
GRANT UPDATE (contract) ON ingest.model TO ingest_loader; -- SELECT … FOR NO KEY UPDATE requires a right to update
GRANT SELECT, UPDATE ON ingest.run_revision TO ingest_loader;
GRANT UPDATE (offset_bytes, received_at, last_progress_at, removed_at, writer) ON ingest.upload TO ingest_loader; -- for uploads whose bytes a load finds lost
GRANT SELECT, INSERT, UPDATE ON ingest.load_attempt TO ingest_loader;
GRANT SELECT, INSERT, DELETE ON ingest.rejected_line TO ingest_loader;
GRANT UPDATE (detail, excerpt) ON ingest.rejected_line TO ingest_loader; -- an erasure blanks them
GRANT SELECT, INSERT ON ingest.publication TO ingest_loader;
GRANT UPDATE (first_row) ON ingest.publication TO ingest_loader;
GRANT SELECT ON ingest.audit_event TO ingest_loader;
-- Neither role chooses the time or the number of an event.
GRANT INSERT (actor, action, model, run_key, revision, detail) ON ingest.audit_event TO ingest_api, ingest_loader;

GRANT EXECUTE ON FUNCTION ingest.prune_audit, ingest.find_upload TO ingest_api;
GRANT EXECUTE ON FUNCTION ingest.list_history TO ingest_loader;
GRANT EXECUTE ON FUNCTION ingest.attach_revision TO ingest_api, ingest_loader;

DO $$
DECLARE it record;
BEGIN
  FOR it IN
    SELECT schemaname, viewname, CASE schemaname WHEN 'scores_history' THEN 'score_history_reader' ELSE 'score_reader' END AS reader
    FROM pg_views WHERE schemaname IN ('scores', 'scores_history', 'scores_typed')
  LOOP EXECUTE format('GRANT SELECT ON %I.%I TO %I', it.schemaname, it.viewname, it.reader); END LOOP;
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
      WHERE n.nspname IN (${SCHEMAS}) AND a.attacl <> '{}') it`.execute(trx);
  return new Map(rows.map(({ name, ...access }) => [name, access]));
}

function difference(
  object: string,
  before: Access | undefined,
  after: Access | undefined,
): readonly string[] {
  if (before === undefined) return [`${object}: created`];
  if (after === undefined) return [`${object}: removed`];
  return [
    ...(before.owner === after.owner ? [] : [`${object}: owner ${after.owner} instead of ${before.owner}`]),
    ...(before.rights === after.rights ? [] : [`${object}: grants`]),
    ...(before.body === after.body ? [] : [`${object}: definition`]),
  ];
}

/** On rights that every login has by PostgreSQL's defaults. Nothing here depends on revoking them. */
export async function adviceOn(trx: Transaction<never>): Promise<string[]> {
  const { rows } = await sql<{ name: string; temporary: boolean; create: boolean }>`
    SELECT quote_ident(current_database()) AS name,
           has_database_privilege('public', current_database(), 'TEMPORARY') AS temporary,
           coalesce(has_schema_privilege('public', to_regnamespace('public')::oid, 'CREATE'), false) AS "create"`.execute(
    trx,
  );
  const [it] = rows;
  const advice: string[] = [];
  if (it?.temporary === true)
    advice.push(
      `every login may fill the disk with temporary tables: REVOKE TEMPORARY ON DATABASE ${it.name} FROM PUBLIC`,
    );
  if (it?.create === true)
    advice.push(
      'every login may create objects in the schema public: REVOKE CREATE ON SCHEMA public FROM PUBLIC',
    );
  return advice;
}

async function run(trx: Transaction<never>, statements: string): Promise<void> {
  await sql.raw(statements).execute(trx);
}
