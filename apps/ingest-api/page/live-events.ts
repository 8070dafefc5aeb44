import type { RunSummary } from 'wire';
import { parseJson } from './api-client.ts';

export type Liveness = 'live' | 'polling' | 'connecting';

export interface LiveOptions {
  onRun(run: RunSummary): void;
  /** Changes may have been missed: read everything anew. */
  onReset(): void;
  onLiveness(liveness: Liveness): void;
}

const POLL_EVERY_MS = 5_000;
const FIRST_EVENT_WITHIN_MS = 8_000;
const TRY_STREAM_AGAIN_MS = 30_000;

/**
 * Listens to /v1/events; the browser reconnects by itself, with Last-Event-ID. Where no stream comes through (a
 * proxy that gathers answers, say), it asks every few seconds instead, and tries the stream again later.
 */
export class LiveEvents {
  readonly #options: LiveOptions;
  #source: EventSource | undefined;
  #polling: number | undefined;
  #timers: number[] = [];

  constructor(options: LiveOptions) {
    this.#options = options;
  }

  start(): void {
    this.stop();
    this.#options.onLiveness(this.#polling === undefined ? 'connecting' : 'polling');
    const source = new EventSource('/v1/events');
    this.#source = source;
    const giveUp = window.setTimeout(() => this.#poll(), FIRST_EVENT_WITHIN_MS);
    this.#timers.push(giveUp);
    const heard = () => {
      clearTimeout(giveUp);
      this.#stopPolling();
      this.#options.onLiveness('live');
    };
    source.addEventListener('open', heard);
    source.addEventListener('reset', () => {
      heard();
      this.#options.onReset();
    });
    source.addEventListener('run', (event) => {
      heard();
      this.#options.onRun(parseJson<RunSummary>((event as MessageEvent<string>).data));
    });
    source.addEventListener('error', () => {
      // CLOSED: the service refused. Otherwise the browser is connecting again already.
      if (source.readyState === EventSource.CLOSED) this.#poll();
      else this.#options.onLiveness('connecting');
    });
  }

  stop(): void {
    this.#source?.close();
    this.#source = undefined;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers = [];
    this.#stopPolling();
  }

  #poll(): void {
    this.stop();
    this.#options.onLiveness('polling');
    this.#options.onReset();
    this.#polling = window.setInterval(() => this.#options.onReset(), POLL_EVERY_MS);
    this.#timers.push(window.setTimeout(() => this.start(), TRY_STREAM_AGAIN_MS));
  }

  #stopPolling(): void {
    clearInterval(this.#polling);
    this.#polling = undefined;
  }
}
