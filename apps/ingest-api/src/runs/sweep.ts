import type { Database } from 'db-schema';
import type { Kysely } from 'kysely';
import { type QueuedRevision, queueCompleteRevisions } from './queue-complete-revisions.ts';
import { markReceived } from './upload-records.ts';

/** Does what a finish hook that died left undone. Run at start and every minute; doing it twice changes nothing. */
export async function sweepFinishedUploads(db: Kysely<Database>): Promise<readonly QueuedRevision[]> {
  await markReceived(db);
  return queueCompleteRevisions(db, 'all');
}
