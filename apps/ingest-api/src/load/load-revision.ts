import {
  type Contract,
  createModelRelations,
  type Database,
  type LoadOutcome,
  type ModelName,
  partitionOf,
} from 'db-schema';
import type { Kysely } from 'kysely';
import type { ClientBase, Pool } from 'pg';
import { limitsOf, MAX_REJECTED_LINES_DEFAULT, type RunLimits } from '../runs/contract.ts';
import { buildKey } from './build-key.ts';
import type { ClaimedRevision } from './claim-next-load.ts';
import { copyFiles } from './copy-files.ts';
import { BytesLost, DataFault } from './data-fault.ts';
import { awaitLostBytes, failRevision } from './fail-revision.ts';
import { findDuplicates } from './find-duplicates.ts';
import type { LoadProgress } from './load-attempts.ts';
import { publishRevision } from './publish-revision.ts';
import { recordRejects } from './record-rejects.ts';

export interface LoadOptions {
  readonly dataDir: string;
  readonly runLimits: RunLimits;
  readonly sidePool: Pool;
  readonly side: Kysely<Database>;
  readonly attemptId: number;
  readonly progress: LoadProgress;
}

/**
 * Loads a claimed revision inside the claim's own transaction: partition, COPY, key, attach, publish, and
 * the outcome of the attempt, so that all of it is there after COMMIT or none.
 *
 * @returns the outcome, still uncommitted; `retry` when the revision waits for bytes that the disk has lost, with the reason.
 * @throws whatever the machinery met; the transaction must then be rolled back.
 */
export async function loadRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  options: LoadOptions,
): Promise<{ readonly outcome: LoadOutcome; readonly reason: string | null }> {
  const { model, revisionId } = claimed;
  const { progress } = options;
  const startedMs = performance.now();
  const partition = partitionOf(model, revisionId);
  await ensureModelRelations(options.sidePool, claimed);
  // Row order: score first, as a row then takes 52 bytes instead of 60 (docs/architecture.md).
  await client.query(`
    CREATE TABLE ${partition} (
      score double precision NOT NULL,
      revision_id integer NOT NULL DEFAULT ${revisionId} CHECK (revision_id = ${revisionId}),
      pk text COLLATE "C" NOT NULL,
      attributes jsonb)`);
  let outcome: LoadOutcome;
  let reason: string | null = null;
  try {
    const contract = await contractOf(client, model);
    const { rejects, scores, bytes } = await copyFiles(client, claimed, {
      dataDir: options.dataDir,
      partition,
      maxRejectedLines: contract.maxRejectedLines ?? MAX_REJECTED_LINES_DEFAULT,
      limits: limitsOf(contract, options.runLimits),
      onProgress: (bytes, rowsDone) => {
        progress.bytesDone = bytes;
        progress.rowsDone = rowsDone;
      },
    });
    const summary = scores.summary;
    if (summary.rows === 0) throw noRows(claimed).beside(rejects);
    progress.phase = 'building_key';
    await buildKey(client, partition, async () =>
      (await findDuplicates(client, partition, claimed, options.dataDir)).beside(rejects),
    );
    progress.phase = 'attaching';
    await recordRejects(client, revisionId, rejects.kept);
    const loaded = {
      profile: { ...summary, bytes, seconds: (performance.now() - startedMs) / 1000 },
      rejects: rejects.totals,
      binShares: (deciles: readonly number[]) => scores.binShares(deciles),
    };
    outcome = await publishRevision(client, claimed, loaded, () => {
      progress.phase = 'publishing';
    });
  } catch (error) {
    if (error instanceof BytesLost) {
      await awaitLostBytes(client, claimed, partition, error, options.dataDir);
      outcome = 'retry';
      reason = error.message;
    } else if (error instanceof DataFault) {
      await failRevision(client, claimed, partition, error, options.dataDir);
      outcome = 'failed';
    } else throw error;
  }
  await finishAttempt(client, options.attemptId, outcome, reason, progress);
  return { outcome, reason };
}

async function contractOf(client: ClientBase, model: ModelName): Promise<Contract> {
  const { rows } = await client.query<{ contract: Contract }>(
    'SELECT contract FROM ingest.model WHERE name = $1',
    [model],
  );
  return rows[0]?.contract ?? {};
}

/** In a transaction of its own: two first loads of one model must not wait for each other's whole load. */
async function ensureModelRelations(pool: Pool, { model }: ClaimedRevision): Promise<void> {
  const client = await pool.connect();
  let failed = true;
  try {
    // The locks that it takes are in every first load's way: a loader that freezes here keeps them for a moment only.
    await client.query(`BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'`);
    await createModelRelations(client, model);
    await client.query('COMMIT');
    failed = false;
  } finally {
    client.release(failed);
  }
}

/** An empty run would take a model's scores away from its readers: it is never what was meant. */
function noRows(claimed: ClaimedRevision): DataFault {
  return new DataFault({
    code: 'no_rows',
    detail: `The ${claimed.files.length === 1 ? 'file holds' : `${claimed.files.length} files hold`} no row at all; a run needs at least one. Push the run again when its data is there.`,
  });
}

async function finishAttempt(
  client: ClientBase,
  attemptId: number,
  outcome: LoadOutcome,
  reason: string | null,
  progress: LoadProgress,
): Promise<void> {
  await client.query(
    `UPDATE ingest.load_attempt
     SET outcome = $2, finished_at = clock_timestamp(), updated_at = clock_timestamp(), phase = $3, bytes_done = $4, rows_done = $5,
         phase_seconds = $6, error = $7
     WHERE attempt_id = $1`,
    [
      attemptId,
      outcome,
      progress.phase,
      progress.bytesDone,
      progress.rowsDone,
      JSON.stringify(progress.phaseSeconds),
      reason,
    ],
  );
}
