import type { Database } from 'db-schema';
import { Router } from 'express';
import type { Kysely } from 'kysely';
import { listOverdue } from '../runs/due.ts';
import { statusOverview } from '../runs/status.ts';
import { listRunsNeedingAttention } from '../runs/summaries.ts';
import { principalOf, requireScope } from './auth.ts';
import type { RoomCheck } from './quota.ts';
import { noQuery } from './requests.ts';

const MOST_ATTENTION = 50;

/** `GET /v1/status`: the whole service at one look. */
export function statusRoutes(db: Kysely<Database>, room: RoomCheck): Router {
  const router = Router();
  const statusOf = sharedAnswer(async (key) => {
    const models = JSON.parse(key) as readonly string[] | null;
    const [overview, disk, needsAttention, overdue] = await Promise.all([
      statusOverview(db, models),
      room.room(),
      listRunsNeedingAttention(db, models, MOST_ATTENTION),
      listOverdue(db, models),
    ]);
    return { at: new Date(), ...overview, disk, needsAttention, ...overdue };
  });
  router.get('/v1/status', noQuery, async (_req, res) => {
    requireScope(res, 'read');
    // Without an ETag: each answer differs, by its clock and the free bytes of the disk.
    res.json(await statusOf(JSON.stringify(principalOf(res).models)));
  });
  return router;
}

/**
 * For answers that read much of the database: callers with the same key share them. At most one is being
 * made, and one more waits for all who asked since it began, so that every caller gets an answer that is
 * newer than its question.
 */
export function sharedAnswer<T>(make: (key: string) => Promise<T>): (key: string) => Promise<T> {
  const running = new Map<string, Promise<T>>();
  const waiting = new Map<string, Promise<T>>();

  const begin = (key: string): Promise<T> => {
    waiting.delete(key);
    const answer = make(key).finally(() => running.delete(key));
    running.set(key, answer);
    return answer;
  };

  return (key) => {
    const before = running.get(key);
    if (before === undefined) return begin(key);
    const known = waiting.get(key);
    if (known !== undefined) return known;
    const next = before.then(
      () => begin(key),
      () => begin(key), // the callers of the one before get its error
    );
    waiting.set(key, next);
    return next;
  };
}
