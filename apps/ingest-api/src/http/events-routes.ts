import { randomBytes } from 'node:crypto';
import { type Response, Router } from 'express';
import type { RunChange, RunWatch } from '../runs/run-watch.ts';
import { covers, type Principal } from '../runs/tokens.ts';
import { principalOf, requireScope } from './authenticate.ts';

/** Far below any proxy's patience, and our own idle time-out. */
const HEARTBEAT_MS = 5_000;
/** A stream ends after so long, so that a token that was revoked meanwhile does not go on listening. */
const LONGEST_STREAM_MS = 15 * 60_000;
const COME_BACK_AFTER_MS = 2_000;

/**
 * Server-sent events (HTML §9.2): `run` with a RunSummary for every run that has changed, `reset` when changes
 * were missed and all must be read anew. Ids are this process's: another one answers `reset`.
 */
export function eventsRoutes({ watch }: { readonly watch: RunWatch }): Router {
  const router = Router();
  const processId = randomBytes(6).toString('hex');

  router.get('/v1/events', (req, res) => {
    requireScope(res, 'read');
    const principal = principalOf(res);
    res.status(200).set({
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-store',
      'X-Accel-Buffering': 'no', // a proxy that gathers would make it anything but live
    });
    res.write(`retry: ${COME_BACK_AFTER_MS}\n\n`);
    catchUp(res, watch, principal, processId, req.get('last-event-id'));

    const unsubscribe = watch.subscribe((change) => {
      if (change === 'stopping') res.end();
      else sendChange(res, principal, processId, change);
    });
    const heartbeat = setInterval(() => res.write(': alive\n\n'), HEARTBEAT_MS);
    const ending = setTimeout(() => res.end(), LONGEST_STREAM_MS);
    res.once('close', () => {
      clearInterval(heartbeat);
      clearTimeout(ending);
      unsubscribe();
    });
  });

  return router;
}

function catchUp(
  res: Response,
  watch: RunWatch,
  principal: Principal,
  processId: string,
  lastEventId: string | undefined,
): void {
  if (lastEventId !== undefined) {
    const [sender, sequence] = lastEventId.split('-');
    const missed = sender === processId ? watch.since(Number(sequence)) : undefined;
    if (missed !== undefined) {
      for (const change of missed) sendChange(res, principal, processId, change);
      return;
    }
  }
  res.write(`id: ${processId}-${watch.sequence}\nevent: reset\ndata: {}\n\n`);
}

function sendChange(res: Response, principal: Principal, processId: string, change: RunChange): void {
  if (!covers(principal, change.run.model)) return;
  res.write(`id: ${processId}-${change.sequence}\nevent: run\ndata: ${JSON.stringify(change.run)}\n\n`);
}
