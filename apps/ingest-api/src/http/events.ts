import { randomBytes } from 'node:crypto';
import { type Response, Router } from 'express';
import { IngestError } from '../errors.ts';
import { covers, type Principal, type Principals } from '../runs/tokens.ts';
import type { RunWatch } from '../runs/watch.ts';
import { principalOf, requireScope } from './auth.ts';
import { heldByTokens } from './limits.ts';
import { noQuery } from './requests.ts';

/** Far shorter than the idle time-outs of proxies and of this service. */
const HEARTBEAT_MS = 5_000;
/** How often a stream checks that its token or session is still valid; all streams share the query. */
const CHECK_EVERY_MS = 1_000;
/** Streams end after this long, so that their clients spread over all processes when one was added. */
const LONGEST_STREAM_MS = 15 * 60_000;
const RECONNECT_AFTER_MS = 2_000;
/** A client that reads nothing for this long is disconnected. */
const DRAIN_WITHIN_MS = 15_000;
const STREAMS_PER_TOKEN = 10;
const STREAM_FREE_AFTER_SECONDS = 30;

interface EventRoutesOptions {
  readonly watch: RunWatch;
  readonly principals: Principals;
  readonly drainWithinMs?: number;
}

/**
 * Server-sent events (HTML §9.2): `run` with a RunSummary for every run that has changed, `reset` when the
 * client missed changes and must read all runs again. Event ids belong to this process: another process
 * answers them with `reset`.
 */
export function eventRoutes(options: EventRoutesOptions): Router {
  const router = Router();
  const processId = randomBytes(6).toString('hex');
  const hold = heldByTokens(STREAMS_PER_TOKEN);

  router.get('/v1/events', noQuery, (req, res) => {
    requireScope(res, 'read');
    if (!hold(res)) {
      throw new IngestError(
        'rate_limited',
        `The token "${principalOf(res).name}" has ${STREAMS_PER_TOKEN} event streams open, which is the limit; close one, or use another token.`,
        { retryAfterSeconds: STREAM_FREE_AFTER_SECONDS },
      );
    }
    res.set({
      'Content-Type': 'text/event-stream; charset=utf-8',
      'Cache-Control': 'no-store',
      'X-Accel-Buffering': 'no', // or nginx would buffer the events
    });
    if (req.method === 'HEAD') {
      res.end(); // Node sends nothing of a HEAD's answer before its end
      return;
    }
    new EventStream(res, processId, options).start(req.get('last-event-id'));
  });

  return router;
}

/**
 * The stream of one client. It reads from the changes that `RunWatch` keeps for all streams, and only while
 * the client reads: nothing is buffered for a slow client, which gets `reset` when `RunWatch` no longer has
 * the changes that it missed.
 */
class EventStream {
  readonly #res: Response;
  readonly #processId: string;
  readonly #watch: RunWatch;
  readonly #principals: Principals;
  readonly #drainWithinMs: number;
  #principal: Principal;
  /** The last change that was sent; undefined: `reset` is to be sent. */
  #position: number | undefined;
  #drainTimer: NodeJS.Timeout | undefined;

  constructor(res: Response, processId: string, options: EventRoutesOptions) {
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
    this.#write(`retry: ${RECONNECT_AFTER_MS}\n\n`);
    this.#sendNew();
    const unsubscribe = this.#watch.subscribe((change) => {
      if (change === 'stopping') res.end();
      else this.#sendNew();
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

  /** Sends new changes until the client's buffer is full; `drain` continues. */
  #sendNew(): void {
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
      this.#sendNew();
    });
  }

  async #endUnlessValid(): Promise<void> {
    const current = await this.#principals.current(this.#principal).catch(() => this.#principal); // the next check asks again
    if (current === undefined) this.#res.end();
    else this.#principal = current;
  }
}
