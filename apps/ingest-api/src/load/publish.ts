import { setTimeout as delay } from 'node:timers/promises';
import type { Contract, GateName, GateResult, RejectTotals, RevisionProfile } from 'db-schema';
import type { ClientBase } from 'pg';
import { stabilityIndex } from 'score-lines';
import { sqlStateOf } from '../errors.ts';
import { isNewer, type RunPosition } from '../runs/revisions.ts';
import { queryOf, type TransitionName, transition } from '../runs/transitions.ts';
import type { ClaimedRevision } from './attempts.ts';

const TRANSITION_TO = {
  published: 'publish',
  superseded: 'load_behind',
  held: 'hold',
} as const satisfies Record<string, TransitionName>;

type PublishOutcome = keyof typeof TRANSITION_TO;

/** What is known of a revision when its rows are in. */
interface LoadedRevision {
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
  const query = queryOf(client);
  if (outcome === 'published') await transition(query, 'step_down', 'r.model = $1', [model]);
  // Nobody decides on an older content of the same run any more.
  await transition(query, 'outdate', 'r.model = $1 AND r.run_key = $2 AND r.revision < $3', [
    model,
    claimed.run,
    claimed.revision,
  ]);
  await transition(query, TRANSITION_TO[outcome], 'r.revision_id = $1', [revisionId], {
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

interface Judged {
  readonly profile: RevisionProfile;
  readonly rejectedLines: number;
  /** How the revision's rows fall into the bins that another one's deciles cut. */
  binShares(deciles: readonly number[]): readonly number[];
}

/**
 * Holds a loaded revision against the model's contract and the run that is published now. What the contract
 * does not ask for, or cannot be compared with anything, is not judged. The score shift is the population
 * stability index over the published run's deciles (docs/decisions/0030).
 */
function judgeRevision(
  contract: Contract,
  { profile, rejectedLines, binShares }: Judged,
  published: RevisionProfile | null,
): GateResult[] {
  const results: GateResult[] = [];
  const judge = (
    gate: GateName,
    found: number | null,
    isBroken: (found: number, expected: number) => boolean,
  ) => {
    const expected = contract[gate];
    if (expected === undefined || found === null) return;
    results.push({ gate, expected, found, broken: isBroken(found, expected) });
  };
  judge('scoreMin', profile.min, isBelow);
  judge('scoreMax', profile.max, isAbove);
  judge('minRows', profile.rows, isBelow);
  judge('maxRejectedLines', rejectedLines, isAbove);
  if (published !== null) {
    judge(
      'maxRowChangePercent',
      rounded((100 * Math.abs(profile.rows - published.rows)) / published.rows),
      isAbove,
    );
    judge(
      'maxScoreShiftPsi',
      rounded(stabilityIndex(published.binShares, binShares(published.deciles))),
      isAbove,
    );
  }
  return results;
}

const isBelow = (found: number, expected: number) => found < expected;
const isAbove = (found: number, expected: number) => found > expected;

/** Six digits behind the point: nobody sets a limit finer than that, and people read it. */
function rounded(value: number): number {
  return Math.round(value * 1e6) / 1e6;
}

const LOCK_NOT_AVAILABLE = '55P03';
const LOCK_TIMEOUT_MS = 500;
const PAUSE_MS = 250;
const GIVE_UP_AFTER_MS = 10 * 60_000;

/**
 * Attaches the loaded partition. ATTACH needs a lock on the parent that readers do not mind, but that another
 * load's ATTACH, or a maintenance command, may hold for a while: it is asked for again and again for a short
 * time each (readers never queue behind it), as an error here would throw a whole load away. The model's row must be
 * locked before, here and wherever else a partition is attached: two of them never wait for each other then.
 */
async function attachPartition(client: ClientBase, revisionId: number): Promise<void> {
  const deadlineMs = Date.now() + GIVE_UP_AFTER_MS;
  await client.query(`SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}`);
  for (;;) {
    await client.query('SAVEPOINT attach');
    try {
      await client.query('SELECT ingest.attach_revision($1)', [revisionId]);
      break;
    } catch (error) {
      if (sqlStateOf(error) !== LOCK_NOT_AVAILABLE || Date.now() > deadlineMs) throw error;
      await client.query('ROLLBACK TO SAVEPOINT attach');
      await delay(PAUSE_MS);
    }
  }
  await client.query('RELEASE SAVEPOINT attach');
  await client.query('SET LOCAL lock_timeout = 0');
}
