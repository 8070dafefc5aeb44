import type { Contract, GateResult, RejectTotals, RevisionProfile } from 'db-schema';
import type { ClientBase } from 'pg';
import { isNewer, type RunPosition } from '../runs/order.ts';
import { attachPartition } from './attach-partition.ts';
import type { ClaimedRevision } from './claim-next-load.ts';
import { judgeRevision } from './judge-revision.ts';

export type PublishOutcome = 'published' | 'superseded' | 'held';

/** What is known of a revision when its rows are in. */
export interface LoadedRevision {
  readonly profile: RevisionProfile;
  readonly rejects: RejectTotals;
  binShares(deciles: readonly number[]): readonly number[];
}

/**
 * Makes the loaded revision the one that readers see, unless they see a newer run already: then it is
 * `superseded`, and may be published by hand; or unless it breaks a gate of the model's contract: then it is `held`
 * for a human to look at. Its partition is attached only when it is published, so that nobody can read it before.
 */
export async function publishRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  loaded: LoadedRevision,
  onAttached: () => void,
): Promise<PublishOutcome> {
  const { model, revisionId } = claimed;
  // Two loads of one model may come here at once: the second sees what the first has published.
  const contract = await lockModel(client, model);
  const current = await currentRevision(client, model);
  const gates = judgeRevision(
    contract,
    { ...loaded, rejectedLines: loaded.rejects.total },
    current?.profile ?? null,
  );
  const outcome = outcomeOf(claimed, current, gates);
  if (outcome === 'published') await attachPartition(client, revisionId);
  onAttached();
  if (outcome === 'published') {
    await client.query(
      `UPDATE ingest.run_revision SET state = 'superseded' WHERE model = $1 AND state = 'published'`,
      [model],
    );
  }
  // Nobody decides on an older content of the same run any more.
  await client.query(
    `UPDATE ingest.run_revision SET state = 'superseded'
     WHERE model = $1 AND state = 'held' AND run_key = $2 AND revision < $3`,
    [model, claimed.run, claimed.revision],
  );
  await client.query(
    `UPDATE ingest.run_revision
     SET state = $2, loaded_at = clock_timestamp(), row_count = $3, profile = $4, gates = $5, compared_with = $6,
         rejects = $7, error = NULL, published_at = CASE WHEN $2 = 'published' THEN clock_timestamp() END
     WHERE revision_id = $1`,
    [
      revisionId,
      outcome,
      loaded.profile.rows,
      JSON.stringify(loaded.profile),
      JSON.stringify(gates),
      current?.revisionId ?? null,
      JSON.stringify(loaded.rejects),
    ],
  );
  if (outcome === 'published') {
    await client.query(
      `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, $3)`,
      [model, revisionId, claimed.declaredBy],
    );
  }
  return outcome;
}

function outcomeOf(
  claimed: ClaimedRevision,
  current: RunPosition | undefined,
  gates: readonly GateResult[],
): PublishOutcome {
  if (current !== undefined && !isNewer(claimed, current)) return 'superseded';
  return gates.some((gate) => gate.broken) ? 'held' : 'published';
}

async function lockModel(client: ClientBase, model: string): Promise<Contract> {
  const { rows } = await client.query<{ contract: Contract }>(
    'SELECT contract FROM ingest.model WHERE name = $1 FOR NO KEY UPDATE',
    [model],
  );
  return rows[0]?.contract ?? {};
}

async function currentRevision(
  client: ClientBase,
  model: string,
): Promise<(RunPosition & { readonly profile: RevisionProfile | null }) | undefined> {
  const { rows } = await client.query(
    `SELECT revision_id AS "revisionId", run_key AS run, revision, as_of AS "asOf", profile
     FROM ingest.run_revision WHERE model = $1 AND state = 'published'`,
    [model],
  );
  return rows[0];
}
