import type { ModelName } from './model-name.ts';

/** The one query method that this file needs: a `pg` Client, or a PoolClient, has it. */
export interface SqlRunner {
  query(sql: string): Promise<{ readonly rows: readonly unknown[] }>;
}

/**
 * The partition that holds one revision. `$` cannot stand in a model name, so that revision 12 of
 * model `churn` can never collide with a model named `churn_12`. At most 59 bytes; PostgreSQL cuts at 63.
 */
export function partitionOf(model: ModelName, revisionId: number): string {
  return `run_data."${model}$${revisionId}"`;
}

/** The partitioned table that all revisions of a model are attached to. */
export function parentOf(model: ModelName): string {
  return `run_data."${model}"`;
}

/**
 * Makes the table that a model's revisions are attached to and the view that applications read, unless they
 * are there: nothing is replaced, as that would make readers wait, and have to wait for them.
 * Safe when two loaders do it at once (an advisory lock for the time of the transaction).
 * Must run inside a transaction, as the role that owns `run_data` and `scores`.
 */
export async function createModelRelations(client: SqlRunner, model: ModelName): Promise<void> {
  const isThere = async () =>
    (await client.query(`SELECT FROM pg_views WHERE schemaname = 'scores' AND viewname = '${model}'`)).rows
      .length > 0;
  if (await isThere()) return;
  await client.query(`SELECT pg_advisory_xact_lock(hashtextextended('createModelRelations', 0))`);
  if (await isThere()) return;
  await client.query(`
    CREATE TABLE ${parentOf(model)} (
      score double precision NOT NULL,
      revision_id integer NOT NULL,
      pk text COLLATE "C" NOT NULL,
      attributes jsonb
    ) PARTITION BY LIST (revision_id)`);
  await client.query(`CREATE VIEW scores."${model}" AS ${currentScoresOf(model)}`);
  await client.query(`GRANT SELECT ON scores."${model}" TO score_reader`);
}

/**
 * The newest publication whose partition this reader can see.
 *
 * A reader whose plan was made before a partition was attached, but whose snapshot was taken after the
 * publication committed, has no such partition in its plan: with a bare pointer it would see no row at all
 * (docs/decisions/0003). The probe makes it see the run before, whole, instead. The probe is planned before
 * the table it guards, so what the probe finds is always there to be read.
 *
 * The run's own columns come by a LEFT JOIN on a key, which the planner leaves out when nobody asks for them.
 */
function currentScoresOf(model: ModelName): string {
  return `
    SELECT d.pk, d.score, d.attributes, r.run_key AS run, r.as_of, r.published_at
    FROM ${parentOf(model)} d
    LEFT JOIN ingest.run_revision r ON r.revision_id = d.revision_id
    WHERE d.revision_id = (
      SELECT p.revision_id
      FROM ingest.publication p
      WHERE p.model = '${model}'
        AND (SELECT true FROM ${parentOf(model)} probe WHERE probe.revision_id = p.revision_id LIMIT 1)
      ORDER BY p.publication_id DESC
      LIMIT 1)`;
}
