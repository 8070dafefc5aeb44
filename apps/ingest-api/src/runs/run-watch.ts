import type { Database } from 'db-schema';
import type { Kysely } from 'kysely';
import { listRunsToWatch } from './list-runs.ts';
import type { RunSummary } from './run-summary.ts';
import { ThroughputLog } from './throughput-log.ts';

export interface RunChange {
  /** Grows by one with every change that this process has seen. */
  readonly sequence: number;
  readonly run: RunSummary;
}

export interface RunWatchOptions {
  readonly db: Kysely<Database>;
  isStopping(): boolean;
  onFault(error: unknown): void;
}

const WATCHED_EVERY_MS = 1_000;
const UNWATCHED_EVERY_MS = 4_000;
const KEPT_CHANGES = 2_000;

/**
 * Looks at all runs that may move, and tells listeners which ones did. It looks rather than being notified, as
 * most of what changes is progress; one query a second serves every listener. It goes on without listeners,
 * more slowly, so that rates are known to whoever asks first.
 */
export class RunWatch {
  readonly throughput = new ThroughputLog();
  readonly #options: RunWatchOptions;
  readonly #listeners = new Set<(change: RunChange | 'stopping') => void>();
  readonly #seen = new Map<string, { readonly text: string; readonly run: RunSummary }>();
  readonly #changes: RunChange[] = [];
  #sequence = 0;
  #eventId: number | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: RunWatchOptions) {
    this.#options = options;
  }

  start(): this {
    this.#schedule();
    return this;
  }

  /** @returns what ends the subscription. */
  subscribe(listener: (change: RunChange | 'stopping') => void): () => void {
    this.#listeners.add(listener);
    this.#schedule();
    return () => this.#listeners.delete(listener);
  }

  get sequence(): number {
    return this.#sequence;
  }

  /** The changes after `sequence`; undefined when they are not kept any more, so that all must be read anew. */
  since(sequence: number): readonly RunChange[] | undefined {
    const first = this.#changes[0]?.sequence ?? this.#sequence + 1;
    if (sequence > this.#sequence || sequence < first - 1) return undefined;
    return this.#changes.filter((change) => change.sequence > sequence);
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    const pauseMs = this.#listeners.size > 0 ? WATCHED_EVERY_MS : UNWATCHED_EVERY_MS;
    this.#timer = setTimeout(() => void this.#look(), pauseMs).unref();
  }

  async #look(): Promise<void> {
    if (this.#options.isStopping()) {
      for (const listener of this.#listeners) listener('stopping');
      return;
    }
    try {
      await this.#readAll();
    } catch (error) {
      this.#options.onFault(error);
    }
    this.#schedule();
  }

  async #readAll(): Promise<void> {
    const { db } = this.#options;
    const newest = await newestEventId(db);
    const known = [...this.#seen.values()].map(({ run }) => run);
    const runs = await listRunsToWatch(db, known, this.#eventId ?? newest);
    const isFirst = this.#eventId === undefined;
    this.#eventId = newest;
    for (const run of runs) this.#note(run, isFirst);
    this.throughput.sample(runs, Date.now());
  }

  #note(run: RunSummary, isFirst: boolean): void {
    const key = `${run.model} ${run.run}`;
    const text = JSON.stringify(run);
    const isChanged = this.#seen.get(key)?.text !== text;
    // What has ended is told once more and then left alone, until an act brings it back.
    if (mayMove(run)) this.#seen.set(key, { text, run });
    else this.#seen.delete(key);
    // What stood there before is news only to those who came before the first look.
    if (!isChanged || (isFirst && this.#listeners.size === 0)) return;
    const change = { sequence: ++this.#sequence, run };
    this.#changes.push(change);
    if (this.#changes.length > KEPT_CHANGES) this.#changes.shift();
    for (const listener of this.#listeners) listener(change);
  }
}

function mayMove(run: RunSummary): boolean {
  return (
    ['receiving', 'queued', 'loading', 'published'].includes(run.state) || run.publishedRevision !== null
  );
}

async function newestEventId(db: Kysely<Database>): Promise<number> {
  const row = await db
    .selectFrom('ingest.audit_event')
    .select((eb) => eb.fn.max('event_id').as('newest'))
    .executeTakeFirst();
  return Number(row?.newest ?? 0);
}
