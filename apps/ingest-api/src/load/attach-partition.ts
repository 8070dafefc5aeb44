import { setTimeout as delay } from 'node:timers/promises';
import { type ModelName, parentOf, partitionOf } from 'db-schema';
import type { ClientBase } from 'pg';
import { sqlStateOf } from '../errors.ts';

const LOCK_NOT_AVAILABLE = '55P03';
const LOCK_TIMEOUT_MS = 500;
const PAUSE_MS = 250;
const GIVE_UP_AFTER_MS = 10 * 60_000;

/**
 * Attaches the loaded partition. ATTACH needs a lock on the parent that readers do not mind, but that another
 * load's ATTACH, or a maintenance command, may hold for a while: it is asked for again and again for a short
 * time each (readers never queue behind it), as giving up would throw a whole load away.
 */
export async function attachPartition(
  client: ClientBase,
  model: ModelName,
  revisionId: number,
): Promise<void> {
  const deadlineMs = Date.now() + GIVE_UP_AFTER_MS;
  await client.query(`SET LOCAL lock_timeout = ${LOCK_TIMEOUT_MS}`);
  for (;;) {
    await client.query('SAVEPOINT attach');
    try {
      await client.query(
        `ALTER TABLE ${parentOf(model)} ATTACH PARTITION ${partitionOf(model, revisionId)} FOR VALUES IN (${revisionId})`,
      );
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
