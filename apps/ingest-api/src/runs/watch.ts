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
const UNWATCHED_EVERY_MS = 4_000;
/** Whoever has asked how fast a run is will ask again. */
const WANTED_FOR_MS = 15_000;
/** Between two looks it waits this many times as long as the last one took: however many runs there are, it takes a tenth of a core. */
const PAUSE_PER_LOOK = 10;
/** But no longer than this: a look also takes long when the database has much else to do. */
const LONGEST_PAUSE_MS = 15_000;
const TICK_MS = 200;
const PAGE_RUNS = 2_000;
/** After as many changes everybody else has a turn: requests, and streams that wait for their clients. */
const TOLD_AT_ONCE = 100;
const KEPT_CHANGES = 1_000;
/** Acts get their ids before they commit: one may appear after later ones. */
const EVENTS_LOOKED_BACK = 200;
const MOST_EVENTS_AT_ONCE = 5_000;

/**
 * Looks at all runs that may move, and tells listeners which ones did. It looks rather than being notified, as
 * most of what changes is progress; one look a second serves every listener. It goes on without listeners,
 * more slowly, so that rates are known to whoever asks first.
 */
export class RunWatch {
  readonly throughput = new ThroughputLog();
  readonly #options: RunWatchOptions;
  readonly #listeners = new Set<(change: RunChange | 'stopping') => void>();
  /** Of each run that may move, or was just looked at: a digest of what was told last. */
  #told = new Map<string, string>();
  /** Runs that acts have touched since the last look that went well. */
  readonly #touched = new Set<string>();
  #hasLooked = false;
  readonly #changes: RunChange[] = [];
  #sequence = 0;
  #lastEventId: number | undefined;
  #recentEvents: ReadonlySet<number> = new Set();
  #timer: NodeJS.Timeout | undefined;
  #isLooking = false;
  #wantedUntilMs = 0;
  #endedMs = performance.now();
  #tookMs = 0;

  constructor(options: RunWatchOptions) {
    this.#options = options;
  }

  start(): this {
    this.#timer = setInterval(() => void this.#tick(), TICK_MS).unref();
    return this;
  }

  /** @returns what ends the subscription. */
  subscribe(listener: (change: RunChange | 'stopping') => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Somebody asks for rates: they are worth a look a second for a while. */
  want(): void {
    this.#wantedUntilMs = performance.now() + WANTED_FOR_MS;
  }

  get sequence(): number {
    return this.#sequence;
  }

  /** The changes after `sequence`; undefined when they are not kept any more, so that all must be read anew. */
  since(sequence: number): readonly RunChange[] | undefined {
    const first = this.#changes[0]?.sequence ?? this.#sequence + 1;
    if (sequence > this.#sequence || sequence < first - 1) return undefined;
    return this.#changes.slice(sequence + 1 - first); // there is none missing among them
  }

  async #tick(): Promise<void> {
    if (this.#options.isStopping()) {
      clearInterval(this.#timer);
      for (const listener of this.#listeners) listener('stopping');
      return;
    }
    const isWatched = this.#listeners.size > 0 || performance.now() < this.#wantedUntilMs;
    const everyMs = isWatched ? WATCHED_EVERY_MS : UNWATCHED_EVERY_MS;
    const pauseMs = Math.max(everyMs, Math.min(this.#tookMs * PAUSE_PER_LOOK, LONGEST_PAUSE_MS));
    if (this.#isLooking || performance.now() < this.#endedMs + pauseMs) return;
    this.#isLooking = true;
    const beganMs = performance.now();
    try {
      await this.#look();
    } catch (error) {
      this.#options.onFault(error);
    }
    this.#isLooking = false;
    this.#endedMs = performance.now();
    this.#tookMs = this.#endedMs - beganMs;
  }

  async #look(): Promise<void> {
    const { db } = this.#options;
    const beganAt = await this.#readEvents();
    const told = new Map<string, string>();
    const note = async (page: { readonly runs: readonly RunSummary[]; readonly at: Date }) => {
      for (const [index, run] of page.runs.entries()) {
        if (index % TOLD_AT_ONCE === TOLD_AT_ONCE - 1) await nextTurn();
        this.#note(run, told);
      }
      this.throughput.sample(page.runs, page.at);
    };
    for (let after: number | null = 0; after !== null; ) {
      const page = await listMovingRuns(db, after, PAGE_RUNS);
      await note(page);
      after = page.nextAfter;
    }
    // What has ended since the last look, and what acts have touched that does not move by itself.
    const others = [...new Set([...this.#told.keys(), ...this.#touched])].filter((key) => !told.has(key));
    const keys = others.map(toRunKey);
    for (let start = 0; start < keys.length; start += PAGE_RUNS)
      await note(await listRunsByKey(db, keys.slice(start, start + PAGE_RUNS)));
    for (const key of others) told.delete(key); // told once more, and then left alone until an act brings it back
    this.#told = told;
    this.#touched.clear();
    this.#hasLooked = true;
    this.throughput.tidy(beganAt);
  }

  #note(run: RunSummary, told: Map<string, string>): void {
    const key = fromRunKey(run);
    const json = JSON.stringify(run);
    const digest = hash('sha256', json, 'base64url');
    const isChanged = (told.get(key) ?? this.#told.get(key)) !== digest;
    told.set(key, digest);
    // What was there before is news only to those who came before the first look.
    if (!isChanged || (!this.#hasLooked && this.#listeners.size === 0)) return;
    const change = { sequence: ++this.#sequence, run, json };
    this.#changes.push(change);
    if (this.#changes.length > KEPT_CHANGES) this.#changes.shift();
    for (const listener of this.#listeners) listener(change);
  }

  /**
   * Notes which runs acts have touched since the last look; at the first one, none.
   *
   * @returns the database's time.
   */
  async #readEvents(): Promise<Date> {
    const { db } = this.#options;
    const { rows } = await sql<{ at: Date; newest: number }>`
      SELECT now() AS at, coalesce(max(event_id), 0) AS newest FROM ingest.audit_event`.execute(db);
    const { at, newest } = rows[0] ?? { at: new Date(0), newest: 0 };
    const events = await db
      .selectFrom('ingest.audit_event')
      .select(['event_id', 'model', 'run_key'])
      .where('event_id', '>', (this.#lastEventId ?? newest) - EVENTS_LOOKED_BACK)
      .orderBy('event_id')
      .limit(MOST_EVENTS_AT_ONCE)
      .execute();
    if (this.#lastEventId !== undefined) {
      for (const { event_id, model, run_key } of events)
        if (model !== null && run_key !== null && !this.#recentEvents.has(event_id))
          this.#touched.add(fromRunKey({ model, run: run_key }));
    }
    const last = events.at(-1)?.event_id ?? newest;
    this.#lastEventId = last;
    this.#recentEvents = new Set(
      events.map(({ event_id }) => event_id).filter((id) => id > last - EVENTS_LOOKED_BACK),
    );
    return at;
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
