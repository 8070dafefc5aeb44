import type { ModelName } from 'wire';

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
 * Makes the table that a model's published revisions are attached to and the view that applications read, unless
 * they are there: nothing is replaced, as that would make readers wait, and have to wait for them.
 * Safe when two loaders do it at once: the model's row is locked for the time of the transaction.
 * Must run inside a transaction, as the role that owns `run_data`.
 */
export async function createModelRelations(client: SqlRunner, model: ModelName): Promise<void> {
  const isThere = async () =>
    (await client.query(`SELECT FROM pg_views WHERE schemaname = 'scores' AND viewname = '${model}'`)).rows
      .length > 0;
  if (await isThere()) return;
  await client.query(`SELECT FROM ingest.model WHERE name = '${model}' FOR NO KEY UPDATE`);
  if (await isThere()) return;
  await client.query(`
    CREATE TABLE ${parentOf(model)} (
      score double precision NOT NULL,
      revision_id integer NOT NULL,
      pk text COLLATE "C" NOT NULL,
      attributes jsonb
    ) PARTITION BY LIST (revision_id)`);
  await client.query(`SELECT ingest.create_scores_view('${model}')`);
}
