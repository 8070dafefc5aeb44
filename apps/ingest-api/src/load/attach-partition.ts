import { setTimeout as delay } from 'node:timers/promises';
import type { ClientBase } from 'pg';
import { sqlStateOf } from '../errors.ts';

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
export async function attachPartition(client: ClientBase, revisionId: number): Promise<void> {
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
