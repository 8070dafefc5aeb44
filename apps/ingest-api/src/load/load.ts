import {
  type Contract,
  createModelRelations,
  type Database,
  type KeyBuild,
  type LoadOutcome,
  type LoadPhase,
  partitionOf,
} from 'db-schema';
import type { Kysely } from 'kysely';
import type { ClientBase, Pool } from 'pg';
import type { ModelName } from 'wire';
import { sqlStateOf } from '../errors.ts';
import { limitsOf, MAX_REJECTED_LINES_DEFAULT, type RunLimits } from '../runs/models.ts';
import { queryOf, transition } from '../runs/transitions.ts';
import { setBackUploads } from '../runs/uploads.ts';
import type { ClaimedRevision, LoadProgress } from './attempts.ts';
import { copyFiles } from './copy.ts';
import { publishRevision } from './publish.ts';
import { BytesLost, DataFault, findDuplicates, recordRejects } from './rejects.ts';
import type { IndexProgress } from './watchdog.ts';

interface LoadOptions {
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

/** The progress of one load, which notes by itself how long each phase has lasted. */
export class PhaseClock implements LoadProgress {
  bytesDone = 0;
  rowsDone = 0;
  readonly #ended: Partial<Record<LoadPhase, number>> = {};
  #phase: LoadPhase = 'copying';
  #sinceMs = performance.now();

  get phase(): LoadPhase {
    return this.#phase;
  }

  set phase(next: LoadPhase) {
    this.#ended[this.#phase] = this.#secondsSince();
    this.#phase = next;
    this.#sinceMs = performance.now();
  }

  /** Of every phase so far, the present one included. */
  get phaseSeconds(): Partial<Record<LoadPhase, number>> {
    return { ...this.#ended, [this.#phase]: this.#secondsSince() };
  }

  #secondsSince(): number {
    return Math.round(performance.now() - this.#sinceMs) / 1000;
  }
}

const UNIQUE_VIOLATION = '23505';

/**
 * Builds the primary key after the rows are in: several times faster than keeping it while they come.
 * Under a savepoint, so that duplicates can be named from the rows themselves: by `findDuplicates`, whose fault
 * is thrown.
 */
async function buildKey(
  client: ClientBase,
  partition: string,
  findDuplicates: () => Promise<DataFault>,
): Promise<void> {
  await client.query('SAVEPOINT build_key');
  try {
    // Full pages: no row comes later.
    await client.query(`ALTER TABLE ${partition} ADD PRIMARY KEY (pk) WITH (fillfactor = 100)`);
  } catch (error) {
    if (sqlStateOf(error) !== UNIQUE_VIOLATION) throw error;
    await client.query('ROLLBACK TO SAVEPOINT build_key');
    throw await findDuplicates();
  }
  await client.query('RELEASE SAVEPOINT build_key');
}

/** What is known of the build after one more look at it; undefined while no key is built. */
export function followKeyBuild(
  before: KeyBuild | undefined,
  index: IndexProgress | undefined,
  seconds: number,
): KeyBuild | undefined {
  if (index === undefined) return undefined;
  const stepBeganAt =
    before === undefined || before.step !== index.step ? seconds : before.seconds - before.stepSeconds;
  return { ...index, stepSeconds: seconds - stepBeganAt, seconds };
}

/**
 * Records, in the load's own transaction, that the data is at fault: the partition is dropped, the reason stays. Uploads
 * whose content is wrong are to be sent again, whichever run needs them. While the claim holds, nobody else can take the revision up in between.
 */
async function failRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  partition: string,
  fault: DataFault,
  dataDir: string,
): Promise<void> {
  await client.query(`DROP TABLE ${partition}`);
  await transition(queryOf(client), 'fail', 'r.revision_id = $1', [claimed.revisionId], {
    error: JSON.stringify(fault.error),
    rejects: JSON.stringify(fault.rejects),
  });
  await recordRejects(client, claimed.revisionId, fault.rejectedLines);
  await setBackUploads(queryOf(client), dataDir, fault.suspects, 'loader');
}

/**
 * Records, in the load's own transaction, that the revision waits for bytes again.
 *
 * @throws the fault itself when there is nothing to wait for: the bytes were there when they were looked for again.
 */
async function awaitLostBytes(
  client: ClientBase,
  { revisionId }: ClaimedRevision,
  partition: string,
  fault: BytesLost,
  dataDir: string,
): Promise<void> {
  await client.query(`DROP TABLE ${partition}`);
  const { revisionIds } = await setBackUploads(queryOf(client), dataDir, fault.suspects, 'loader');
  if (!revisionIds.includes(revisionId)) throw fault;
}
