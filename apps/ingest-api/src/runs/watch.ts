import { hash } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import type { RunSummary } from 'wire';
import { listMovingRuns, listRunsByKey, type RunKey } from './summaries.ts';
import { ThroughputLog } from './throughput.ts';

interface RunChange {
  /** Grows by one with every change that this process has seen. */
  readonly sequence: number;
  readonly run: RunSummary;
  /** `run` as JSON: made once, for every listener. */
  readonly json: string;
}

interface RunWatchOptions {
  readonly db: Kysely<Database>;
  isStopping(): boolean;
  onFault(error: unknown): void;
}

const WATCHED_EVERY_MS = 1_000;
/** While no run is received or loaded: what changes then is an action, of which nobody waits for the next second. */
const AT_REST_EVERY_MS = 2_000;
const UNWATCHED_EVERY_MS = 4_000;
/** A client that asks for rates will probably ask again. */
const WANTED_FOR_MS = 15_000;
/**
 * Between two polls it waits this many times as long as the last one took: it uses a tenth of a core, however
 * many runs there are.
 */
const PAUSE_PER_POLL = 10;
/** But no longer than this: a poll is also slow when the database is busy with other work. */
const LONGEST_PAUSE_MS = 15_000;
const TICK_MS = 200;
const PAGE_RUNS = 2_000;
/**
 * After this many runs, other work of the process has a turn: requests, and streams that wait for their
 * clients.
 */
const NOTED_AT_ONCE = 100;
const KEPT_CHANGES = 1_000;
/** Audit events get their ids before they commit: one may appear after later ones. */
const EVENTS_READ_AGAIN = 200;
const MOST_EVENTS_AT_ONCE = 5_000;

/**
 * Polls all runs that may move, and informs listeners which ones changed. It polls, as most changes are
 * progress, about which nothing notifies; one poll a second serves every listener. While nothing moves, and without
 * listeners, it polls more slowly: then also, rates are known to the first client that asks.
 */
export class RunWatch {
  readonly throughput = new ThroughputLog();
  readonly #options: RunWatchOptions;
  readonly #listeners = new Set<(change: RunChange | 'stopping') => void>();
  /** For each run that may move, or that the last poll read: a digest of what listeners know. */
  #known = new Map<string, string>();
  /** Runs that actions have touched since the last successful poll. */
  readonly #touched = new Set<string>();
  /** The runs that were published at the last poll. */
  #published: ReadonlySet<string> | undefined;
  #hasPolled = false;
  #isAnyMoving = false;
  readonly #changes: RunChange[] = [];
  #sequence = 0;
  #lastEventId: number | undefined;
  #recentEvents: ReadonlySet<number> = new Set();
  #timer: NodeJS.Timeout | undefined;
  #isPolling = false;
  #wantedUntilMs = 0;
  /** The first poll is made at once: the later ones are compared with it. */
  #endedMs = Number.NEGATIVE_INFINITY;
  #tookMs = 0;

  constructor(options: RunWatchOptions) {
    this.#options = options;
  }

  start(): this {
    this.#timer = setInterval(() => void this.#tick(), TICK_MS).unref();
    return this;
  }

  /** @returns a function that ends the subscription. */
  subscribe(listener: (change: RunChange | 'stopping') => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** To be called when a client asks for rates: it then polls once a second for a while. */
  want(): void {
    this.#wantedUntilMs = performance.now() + WANTED_FOR_MS;
  }

  get sequence(): number {
    return this.#sequence;
  }

  /**
   * The changes after `sequence`; undefined when they are not kept any more, and all runs must be read again.
   */
  since(sequence: number): readonly RunChange[] | undefined {
    const first = this.#changes[0]?.sequence ?? this.#sequence + 1;
    if (sequence > this.#sequence || sequence < first - 1) return undefined;
    return this.#changes.slice(sequence + 1 - first); // none is missing among them
  }

  async #tick(): Promise<void> {
    if (this.#options.isStopping()) {
      clearInterval(this.#timer);
      for (const listener of this.#listeners) listener('stopping');
      return;
    }
    const isWatched = this.#listeners.size > 0 || performance.now() < this.#wantedUntilMs;
    const watchedEveryMs = this.#isAnyMoving ? WATCHED_EVERY_MS : AT_REST_EVERY_MS;
    const everyMs = isWatched ? watchedEveryMs : UNWATCHED_EVERY_MS;
    const pauseMs = Math.max(everyMs, Math.min(this.#tookMs * PAUSE_PER_POLL, LONGEST_PAUSE_MS));
    if (this.#isPolling || performance.now() < this.#endedMs + pauseMs) return;
    this.#isPolling = true;
    const beganMs = performance.now();
    try {
      await this.#poll();
    } catch (error) {
      this.#options.onFault(error);
    }
    this.#isPolling = false;
    this.#endedMs = performance.now();
    this.#tookMs = this.#endedMs - beganMs;
  }

  async #poll(): Promise<void> {
    const { db } = this.#options;
    const { at: beganAt, isAnyMoving } = await this.#readEvents();
    this.#isAnyMoving = isAnyMoving;
    const known = new Map<string, string>();
    const note = async (page: { readonly runs: readonly RunSummary[]; readonly at: Date }) => {
      for (const [index, run] of page.runs.entries()) {
        if (index % NOTED_AT_ONCE === NOTED_AT_ONCE - 1) await nextTurn();
        this.#note(run, known);
      }
      this.throughput.sample(page.runs, page.at);
    };
    for (let after: number | null = isAnyMoving ? 0 : null; after !== null; ) {
      const page = await listMovingRuns(db, after, PAGE_RUNS);
      await note(page);
      after = page.nextAfter;
    }
    // Runs that have ended since the last poll, and runs at rest that actions have touched.
    const others = [...new Set([...this.#known.keys(), ...this.#touched])].filter((key) => !known.has(key));
    const keys = others.map(toRunKey);
    for (let start = 0; start < keys.length; start += PAGE_RUNS)
      await note(await listRunsByKey(db, keys.slice(start, start + PAGE_RUNS)));
    for (const key of others) known.delete(key); // reported once more, and then not read until an action touches it
    this.#known = known;
    this.#touched.clear();
    this.#hasPolled = true;
    this.throughput.tidy(beganAt);
  }

  #note(run: RunSummary, known: Map<string, string>): void {
    const key = fromRunKey(run);
    const json = JSON.stringify(run);
    const digest = hash('sha256', json, 'base64url');
    const isChanged = (known.get(key) ?? this.#known.get(key)) !== digest;
    known.set(key, digest);
    // What the first poll finds is only new to those who subscribed before it.
    if (!isChanged || (!this.#hasPolled && this.#listeners.size === 0)) return;
    const change = { sequence: ++this.#sequence, run, json };
    this.#changes.push(change);
    if (this.#changes.length > KEPT_CHANGES) this.#changes.shift();
    for (const listener of this.#listeners) listener(change);
  }

  /**
   * Notes which runs actions have touched since the last poll, and which are published since then or not any more; none at
   * the first one. Nothing more is read while nothing happens: its cost does not grow with the history.
   *
   * @returns the database's time.
   */
  async #readEvents(): Promise<{ readonly at: Date; readonly isAnyMoving: boolean }> {
    const { rows } = await sql<{
      at: Date;
      isAnyMoving: boolean;
      published: string[];
      newest: number;
      events: readonly { event_id: number; model: string | null; run_key: string | null }[];
    }>`
      SELECT now() AS at, newest,
             EXISTS (SELECT FROM ingest.run_revision WHERE state IN ('receiving', 'queued')) AS "isAnyMoving",
             ARRAY(SELECT revision_id || ' ' || model || ' ' || run_key FROM ingest.run_revision WHERE state = 'published')
               AS published,
             (SELECT coalesce(json_agg(e ORDER BY event_id), '[]') FROM (
                SELECT event_id, model, run_key FROM ingest.audit_event
                WHERE event_id > coalesce(${this.#lastEventId ?? null}::bigint, newest) - ${EVENTS_READ_AGAIN}
                ORDER BY event_id LIMIT ${MOST_EVENTS_AT_ONCE}) e) AS events
      FROM (SELECT coalesce(max(event_id), 0) AS newest FROM ingest.audit_event) n`.execute(this.#options.db);
    const { at, newest, isAnyMoving, published, events } = rows[0] ?? {
      at: new Date(0),
      newest: 0,
      isAnyMoving: false,
      published: [],
      events: [],
    };
    const publishedBefore = this.#published;
    this.#published = new Set(published);
    const isSame = (entry: string) =>
      publishedBefore === undefined || (publishedBefore.has(entry) && published.includes(entry));
    for (const entry of [...published, ...(publishedBefore ?? [])])
      if (!isSame(entry)) this.#touched.add(entry.slice(entry.indexOf(' ') + 1));
    if (this.#lastEventId !== undefined) {
      for (const { event_id, model, run_key } of events)
        if (model !== null && run_key !== null && !this.#recentEvents.has(event_id))
          this.#touched.add(fromRunKey({ model, run: run_key }));
    }
    const last = events.at(-1)?.event_id ?? newest;
    this.#lastEventId = last;
    this.#recentEvents = new Set(
      events.map(({ event_id }) => event_id).filter((id) => id > last - EVENTS_READ_AGAIN),
    );
    return { at, isAnyMoving };
  }
}

/** A model's name has no space. */
function fromRunKey({ model, run }: RunKey): string {
  return `${model} ${run}`;
}

function toRunKey(key: string): RunKey {
  const space = key.indexOf(' ');
  return { model: key.slice(0, space), run: key.slice(space + 1) };
}
