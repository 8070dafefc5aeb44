import { createModelRelations, type LoadOutcome, partitionOf } from 'db-schema';
import type { ClientBase, Pool } from 'pg';
import { contractOf, limitsOf, MAX_REJECTED_LINES_DEFAULT, type RunLimits } from '../runs/models.ts';
import { queryOf } from '../runs/transitions.ts';
import type { Store } from '../store/store.ts';
import { type ClaimedRevision, endAttempt, type LoadProgress } from './attempts.ts';
import { copyFiles } from './copy.ts';
import { BytesLost, DataFault, recordDataFault, recordLostBytes, recordRejects } from './faults.ts';
import { buildKey } from './key.ts';
import { publishRevision } from './publish.ts';

interface LoadOptions {
  readonly store: Store;
  readonly runLimits: RunLimits;
  readonly sidePool: Pool;
  readonly attemptId: number;
  readonly progress: LoadProgress;
}

export interface EndedLoad {
  readonly outcome: LoadOutcome;
  /** Set when the outcome is `retry`: the revision waits for bytes that the disk has lost. */
  readonly reason: string | null;
}

/**
 * Loads a claimed revision inside the claim's own transaction: partition, COPY, key, attach, publish, and the
 * outcome of the attempt. After COMMIT all of it is there, or nothing.
 *
 * @returns the outcome, not yet committed.
 * @throws every fault of the machinery; the transaction must then be rolled back.
 */
export async function loadRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  options: LoadOptions,
): Promise<EndedLoad> {
  const { model, revisionId } = claimed;
  const { store, attemptId, progress } = options;
  const partition = partitionOf(model, revisionId);
  await ensureModelRelations(options.sidePool, claimed);
  // `score` first: a row then takes 52 bytes instead of 60 (docs/architecture.md).
  await client.query(`
    CREATE TABLE ${partition} (
      score double precision NOT NULL,
      revision_id integer NOT NULL DEFAULT ${revisionId} CHECK (revision_id = ${revisionId}),
      pk text COLLATE "C" NOT NULL,
      attributes jsonb)`);
  let outcome: LoadOutcome;
  let reason: string | null = null;
  try {
    outcome = await fillAndPublish(client, claimed, partition, options);
  } catch (error) {
    if (!(error instanceof BytesLost || error instanceof DataFault)) throw error;
    await client.query(`DROP TABLE ${partition}`);
    if (error instanceof BytesLost) {
      await recordLostBytes(client, revisionId, error, store);
      outcome = 'retry';
      reason = error.message;
    } else {
      await recordDataFault(client, revisionId, error, store);
      outcome = 'failed';
    }
  }
  await endAttempt(client, attemptId, outcome, reason, progress);
  return { outcome, reason };
}

/** In a transaction of its own: two first loads of one model must not wait for each other's whole load. */
async function ensureModelRelations(pool: Pool, { model }: ClaimedRevision): Promise<void> {
  const client = await pool.connect();
  let failed = true;
  try {
    // Every first load needs these locks: a loader that freezes here must not keep them.
    await client.query(`BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'`);
    await createModelRelations(client, model);
    await client.query('COMMIT');
    failed = false;
  } finally {
    client.release(failed);
  }
}

async function fillAndPublish(
  client: ClientBase,
  claimed: ClaimedRevision,
  partition: string,
  { store, runLimits, progress }: LoadOptions,
): Promise<LoadOutcome> {
  const contract = await contractOf(queryOf(client), claimed.model);
  const { rejects, scores, bytes } = await copyFiles(client, claimed, {
    store,
    partition,
    maxRejectedLines: contract.maxRejectedLines ?? MAX_REJECTED_LINES_DEFAULT,
    limits: limitsOf(contract, runLimits),
    onProgress: (bytesDone, rowsDone) => {
      progress.bytesDone = bytesDone;
      progress.rowsDone = rowsDone;
    },
  });
  const { summary } = scores;
  try {
    if (summary.rows === 0) throw noRows(claimed);
    progress.phase = 'building_key';
    await buildKey(client, partition, claimed, store);
    await client.query(`ANALYZE ${partition}`); // the first query of a reader needs it; autovacuum comes a minute later
  } catch (error) {
    throw error instanceof DataFault ? error.with(rejects) : error;
  }
  progress.phase = 'attaching';
  await recordRejects(queryOf(client), claimed.revisionId, rejects.kept);
  return publishRevision(client, claimed, progress, {
    profile: { ...summary, bytes, seconds: progress.seconds },
    rejects: rejects.totals,
    binShares: (deciles) => scores.binShares(deciles),
  });
}

/** A run without rows would take the model's scores away from its readers, and nobody wants that. */
function noRows({ files }: ClaimedRevision): DataFault {
  const found = files.length === 1 ? 'The file has no rows' : `The ${files.length} files have no rows`;
  return new DataFault({
    code: 'no_rows',
    detail: `${found}; a run needs at least one. Push the run again when its data is there.`,
  });
}
