import { randomBytes } from 'node:crypto';
import { type Response, Router } from 'express';
import { IngestError } from '../errors.ts';
import { covers, type Principal, type Principals } from '../runs/tokens.ts';
import type { RunWatch } from '../runs/watch.ts';
import { principalOf, requireScope } from './auth.ts';

/** Far below any proxy's patience, and our own idle time-out. */
const HEARTBEAT_MS = 5_000;
/** How often a stream asks whether its token and its session are valid; all streams share the query. */
const CHECK_EVERY_MS = 1_000;
/** Streams end after this long, so that they spread over the processes again when one was added. */
const LONGEST_STREAM_MS = 15 * 60_000;
const COME_BACK_AFTER_MS = 2_000;
/** A client that takes nothing for this long is cut off. */
const DRAIN_WITHIN_MS = 15_000;
const STREAMS_A_TOKEN = 10;
const STREAM_FREE_AFTER_SECONDS = 30;

interface EventsRoutesOptions {
  readonly watch: RunWatch;
  readonly principals: Principals;
  readonly drainWithinMs?: number;
}

/**
 * Server-sent events (HTML §9.2): `run` with a RunSummary for every run that has changed, `reset` when changes
 * were missed and all must be read anew. Ids are this process's: another one answers `reset`.
 */
export function eventsRoutes(options: EventsRoutesOptions): Router {
  const router = Router();
  const processId = randomBytes(6).toString('hex');
  const openStreams = new Map<number, number>();

  router.get('/v1/events', (req, res) => {
    requireScope(res, 'read');
    const { tokenId, name } = principalOf(res);
    const open = openStreams.get(tokenId) ?? 0;
    if (open >= STREAMS_A_TOKEN) {
      throw new IngestError(
        'rate_limited',
        `The token "${name}" has ${open} streams of events open, and may have no more; close one, or use a token of your own.`,
        { retryAfterSeconds: STREAM_FREE_AFTER_SECONDS },
      );
    }
    openStreams.set(tokenId, open + 1);
    res.once('close', () => {
      const left = (openStreams.get(tokenId) ?? 1) - 1;
      if (left > 0) openStreams.set(tokenId, left);
      else openStreams.delete(tokenId);
    });
    new EventStream(res, processId, options).start(req.get('last-event-id'));
  });

  return router;
}

/**
 * One client's stream. It reads on in the changes that `RunWatch` keeps for everybody, and only while the client takes
 * them: nothing is kept for a slow one, which gets `reset` when changes are gone by then.
 */
class EventStream {
  readonly #res: Response;
  readonly #processId: string;
  readonly #watch: RunWatch;
  readonly #principals: Principals;
  readonly #drainWithinMs: number;
  #principal: Principal;
  /** Changes up to this one are sent; undefined: the next thing to send is `reset`. */
  #position: number | undefined;
  #drainTimer: NodeJS.Timeout | undefined;

  constructor(res: Response, processId: string, options: EventsRoutesOptions) {
    this.#res = res;
    this.#processId = processId;
    this.#watch = options.watch;
    this.#principals = options.principals;
    this.#drainWithinMs = options.drainWithinMs ?? DRAIN_WITHIN_MS;
    this.#principal = principalOf(res);
  }

  start(lastEventId: string | undefined): void {
    const res = this.#res;
    const [sender, sequence] = lastEventId?.split('-') ?? [];
    if (sender === this.#processId && /^\d{1,15}$/.test(sequence ?? '')) this.#position = Number(sequence);
    res.status(200).set({
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-store',
      'X-Accel-Buffering': 'no', // a proxy that gathers would make it anything but live
    });
    this.#write(`retry: ${COME_BACK_AFTER_MS}\n\n`);
    this.#sendOn();
    const unsubscribe = this.#watch.subscribe((change) => {
      if (change === 'stopping') res.end();
      else this.#sendOn();
    });
    const heartbeat = setInterval(() => {
      if (!this.#isHeldBack) this.#write(': alive\n\n');
    }, HEARTBEAT_MS);
    const check = setInterval(() => void this.#endUnlessValid(), CHECK_EVERY_MS);
    const ending = setTimeout(() => res.end(), LONGEST_STREAM_MS);
    res.once('close', () => {
      unsubscribe();
      clearInterval(heartbeat);
      clearInterval(check);
      clearTimeout(ending);
      clearTimeout(this.#drainTimer);
    });
  }

  get #isHeldBack(): boolean {
    return this.#drainTimer !== undefined;
  }

  /** Sends what is new, until the client takes no more; goes on when it does. */
  #sendOn(): void {
    while (!this.#isHeldBack && !this.#res.writableEnded && !this.#res.destroyed) {
      const changes = this.#position === undefined ? undefined : this.#watch.since(this.#position);
      if (changes === undefined) {
        this.#position = this.#watch.sequence;
        this.#write(`id: ${this.#processId}-${this.#position}\nevent: reset\ndata: {}\n\n`);
        continue;
      }
      if (changes.length === 0) return;
      for (const { sequence, run, json } of changes) {
        if (this.#isHeldBack) return;
        this.#position = sequence;
        if (covers(this.#principal, run.model))
          this.#write(`id: ${this.#processId}-${sequence}\nevent: run\ndata: ${json}\n\n`);
      }
    }
  }

  #write(text: string): void {
    if (this.#res.writableEnded || this.#res.write(text)) return;
    this.#drainTimer ??= setTimeout(() => this.#res.destroy(), this.#drainWithinMs);
    this.#res.once('drain', () => {
      clearTimeout(this.#drainTimer);
      this.#drainTimer = undefined;
      this.#sendOn();
    });
  }

  async #endUnlessValid(): Promise<void> {
    const current = await this.#principals.current(this.#principal).catch(() => this.#principal); // asked again soon
    if (current === undefined) this.#res.end();
    else this.#principal = current;
  }
}
