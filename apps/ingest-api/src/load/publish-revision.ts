import type { ClientBase } from 'pg';
import type { ClaimedRevision } from './claim-next-load.ts';

export type PublishOutcome = 'published' | 'superseded';

interface CurrentRevision {
  readonly revisionId: number;
  readonly run: string;
  readonly revision: number;
  readonly asOf: Date;
}

/**
 * Makes the loaded revision the one that readers see, unless a newer run stands there already: then it is
 * loaded, and waits as `superseded` to be published by hand.
 */
export async function publishRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  rows: number,
): Promise<PublishOutcome> {
  // Two loads of one model may come here at once: the second sees what the first has published.
  await client.query('SELECT FROM ingest.model WHERE name = $1 FOR NO KEY UPDATE', [claimed.model]);
  const current = await currentRevision(client, claimed.model);
  if (current !== undefined && !isNewer(claimed, current)) {
    await client.query(
      `UPDATE ingest.run_revision SET state = 'superseded', loaded_at = clock_timestamp(), row_count = $2 WHERE revision_id = $1`,
      [claimed.revisionId, rows],
    );
    return 'superseded';
  }
  await client.query(
    `UPDATE ingest.run_revision SET state = 'superseded' WHERE model = $1 AND state = 'published'`,
    [claimed.model],
  );
  await client.query(
    `UPDATE ingest.run_revision
     SET state = 'published', loaded_at = clock_timestamp(), published_at = clock_timestamp(), row_count = $2
     WHERE revision_id = $1`,
    [claimed.revisionId, rows],
  );
  await client.query(
    `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, $3)`,
    [claimed.model, claimed.revisionId, claimed.declaredBy],
  );
  return 'published';
}

async function currentRevision(client: ClientBase, model: string): Promise<CurrentRevision | undefined> {
  const { rows } = await client.query<CurrentRevision>(
    `SELECT revision_id AS "revisionId", run_key AS run, revision, as_of AS "asOf"
     FROM ingest.run_revision WHERE model = $1 AND state = 'published'`,
    [model],
  );
  return rows[0];
}

/**
 * A new revision of the current run replaces it. Otherwise the later `as_of` is newer, and of two equal ones
 * the one that was declared later (ids grow with declarations).
 */
export function isNewer(candidate: CurrentRevision, current: CurrentRevision): boolean {
  if (candidate.run === current.run) return candidate.revision > current.revision;
  const byDate = candidate.asOf.getTime() - current.asOf.getTime();
  return byDate === 0 ? candidate.revisionId > current.revisionId : byDate > 0;
}
