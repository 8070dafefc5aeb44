import { setTimeout as delay } from 'node:timers/promises';
import type { GateName, GateResult, RejectTotals, RevisionProfile } from 'db-schema';
import type { ClientBase } from 'pg';
import { stabilityIndex } from 'score-lines';
import type { Contract } from 'wire';
import { lockModel } from '../runs/models.ts';
import { isLockNotAvailable, isNewer, type RunPosition } from '../runs/revisions.ts';
import { queryOf, type TransitionName, transition, transitionOne } from '../runs/transitions.ts';
import type { ClaimedRevision, LoadProgress } from './attempts.ts';

const TRANSITION_TO = {
  published: 'publish',
  superseded: 'supersede',
  held: 'hold',
} as const satisfies Record<string, TransitionName>;

type PublishOutcome = keyof typeof TRANSITION_TO;

/** What is known of a revision when its rows are loaded. */
interface LoadedRevision {
  readonly profile: RevisionProfile;
  readonly rejects: RejectTotals;
  /** The share of the revision's rows in each of the bins that another revision's deciles cut. */
  binShares(deciles: readonly number[]): readonly number[];
}

/**
 * Makes the loaded revision the one that readers see. If they see a newer run already, it becomes
 * `superseded`, and may be published by hand; if it breaks a gate of the model's contract, it becomes `held`
 * until a human decides. Its partition is attached only when it is published, so that nobody can read it
 * before.
 */
export async function publishRevision(
  client: ClientBase,
  claimed: ClaimedRevision,
  progress: LoadProgress,
  loaded: LoadedRevision,
): Promise<PublishOutcome> {
  const { model, revisionId } = claimed;
  const query = queryOf(client);
  // Two loads of one model may be here at once: the second sees what the first has published.
  const contract = await lockModel(query, model);
  const current = await currentRevision(client, model);
  const gates = judge(contract, loaded, current?.profile ?? null);
  const outcome = outcomeOf(claimed, current, gates);
  if (outcome === 'published') await attachPartition(client, revisionId);
  progress.phase = 'publishing';
  if (outcome === 'published') await transition(query, 'replace_published', 'r.model = $1', [model]);
  // An older content of the same run needs no decision any more.
  await transition(query, 'replace_held', 'r.model = $1 AND r.run_key = $2 AND r.revision < $3', [
    model,
    claimed.run,
    claimed.revision,
  ]);
  await transitionOne(query, TRANSITION_TO[outcome], revisionId, {
    row_count: loaded.profile.rows,
    profile: JSON.stringify(loaded.profile),
    gates: JSON.stringify(gates),
    compared_with: current?.revisionId ?? null,
    rejects: JSON.stringify(loaded.rejects),
  });
  if (outcome === 'published') {
    await client.query(
      `INSERT INTO ingest.publication (model, revision_id, published_by) VALUES ($1, $2, $3)`,
      [model, revisionId, claimed.declaredBy],
    );
  }
  return outcome;
}

interface CurrentRevision extends RunPosition {
  readonly profile: RevisionProfile | null;
}

async function currentRevision(client: ClientBase, model: string): Promise<CurrentRevision | undefined> {
  const { rows } = await client.query<CurrentRevision>(
    `SELECT revision_id AS "revisionId", run_key AS run, revision, as_of AS "asOf", profile
     FROM ingest.run_revision WHERE model = $1 AND state = 'published'`,
    [model],
  );
  return rows[0];
}

/**
 * Compares a loaded revision with the model's contract and with the published run. What the contract does not
 * ask for, and what has nothing to be compared with, is not judged. The score shift is the population
 * stability index over the published run's deciles (docs/decisions/0030).
 */
function judge(
  contract: Contract,
  { profile, rejects, binShares }: LoadedRevision,
  published: RevisionProfile | null,
): GateResult[] {
  const results: GateResult[] = [];
  const gate = (
    name: GateName,
    found: number | null,
    isBroken: (found: number, expected: number) => boolean,
  ) => {
    const expected = contract[name];
    if (expected === undefined || found === null) return;
    results.push({ gate: name, expected, found, broken: isBroken(found, expected) });
  };
  gate('scoreMin', profile.min, isBelow);
  gate('scoreMax', profile.max, isAbove);
  gate('minRows', profile.rows, isBelow);
  gate('maxRejectedLines', rejects.total, isAbove);
  if (published !== null) {
    const rowChangePercent = (100 * Math.abs(profile.rows - published.rows)) / published.rows;
    gate('maxRowChangePercent', rounded(rowChangePercent), isAbove);
    const scoreShift = stabilityIndex(published.binShares, binShares(published.deciles));
    gate('maxScoreShiftPsi', rounded(scoreShift), isAbove);
  }
  return results;
}

const isBelow = (found: number, expected: number) => found < expected;
const isAbove = (found: number, expected: number) => found > expected;

/** To six decimals: nobody sets a finer limit, and people read the value. */
function rounded(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}

function outcomeOf(
  claimed: ClaimedRevision,
  current: RunPosition | undefined,
  gates: readonly GateResult[],
): PublishOutcome {
  if (current !== undefined && !isNewer(claimed, current)) return 'superseded';
  return gates.some((gate) => gate.broken) ? 'held' : 'published';
}

const LOCK_TIMEOUT_MS = 500;
const PAUSE_MS = 250;
const ATTACH_TIMEOUT_MS = 10 * 60_000;

/**
 * Attaches the loaded partition. ATTACH needs a lock on the parent that readers do not mind, but that another
 * load's ATTACH, or a maintenance command, may hold for a while. An error here would throw away the whole
 * load, so it asks again and again, each time for a short while only (readers never queue behind it).
 * Everyone who attaches a partition locks the model's row first, so two of them never wait for each other.
 */
async function attachPartition(client: ClientBase, revisionId: number): Promise<void> {
  const deadlineMs = Date.now() + ATTACH_TIMEOUT_MS;
  await client.query(`SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}`);
  for (;;) {
    await client.query('SAVEPOINT attach');
    try {
      await client.query('SELECT ingest.attach_revision($1)', [revisionId]);
      break;
    } catch (error) {
      if (!isLockNotAvailable(error) || Date.now() > deadlineMs) throw error;
      await client.query('ROLLBACK TO SAVEPOINT attach');
      await delay(PAUSE_MS);
    }
  }
  await client.query('RELEASE SAVEPOINT attach');
  await client.query('SET LOCAL lock_timeout = 0');
}
