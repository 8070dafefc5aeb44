import type { LoadPhase } from 'db-schema';
import type { LoadProgress } from './load-attempts.ts';

/** The progress of one load, which notes by itself how long each phase has lasted. */
export class PhaseClock implements LoadProgress {
  bytesDone = 0;
  rowsDone = 0;
  readonly #ended: Partial<Record<LoadPhase, number>> = {};
  #phase: LoadPhase = 'copying';
  #sinceMs = performance.now();

  get phase(): LoadPhase {
    return this.#phase;
  }

  set phase(next: LoadPhase) {
    this.#ended[this.#phase] = this.#secondsSince();
    this.#phase = next;
    this.#sinceMs = performance.now();
  }

  /** Of every phase so far, the present one included. */
  get phaseSeconds(): Partial<Record<LoadPhase, number>> {
    return { ...this.#ended, [this.#phase]: this.#secondsSince() };
  }

  #secondsSince(): number {
    return Math.round(performance.now() - this.#sinceMs) / 1000;
  }
}
