import { once } from 'node:events';
import type { Writable } from 'node:stream';

/** Writes to a COPY with one piece on its way while the next one is made. */
export class CopySink {
  readonly #copy: Writable;
  readonly #failed: Promise<never>;
  #error: Error | undefined;
  #writable: Promise<unknown> = Promise.resolve();

  constructor(copy: Writable) {
    this.#copy = copy;
    this.#failed = once(copy, 'error').then(([error]) => Promise.reject(error));
    this.#failed.catch(() => {}); // heard by whichever write or end comes next
    copy.on('error', (error) => {
      this.#error ??= error; // a lost connection tells twice
    });
  }

  async write(rows: Buffer): Promise<void> {
    await Promise.race([this.#writable, this.#failed]);
    // After PostgreSQL has ended the COPY, pg-copy-streams can only say that its connection is null.
    if (this.#error !== undefined) throw this.#error;
    this.#writable = new Promise<void>((resolve, reject) => {
      this.#copy.write(rows, (error) => (error ? reject(error) : resolve()));
    });
    this.#writable.catch(() => {});
  }

  /** Resolves when PostgreSQL has taken every row. */
  async end(): Promise<void> {
    const finished = once(this.#copy, 'finish');
    this.#copy.end();
    await Promise.race([finished, this.#failed]);
  }
}
