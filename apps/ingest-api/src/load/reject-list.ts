import type { RejectTotals } from 'db-schema';
import type { RejectedLine } from 'score-lines';
import { DataFault, type FileReject } from './data-fault.ts';

/** So many bad lines are kept whole; the totals count all of them. */
export const KEPT_REJECTS = 1_000;

/** Collects the refused lines of a revision, file after file, of which the model's contract allows some. */
export class RejectList {
  readonly #allowed: number;
  readonly #kept: FileReject[] = [];
  readonly #byCode: Record<string, number> = {};
  #total = 0;

  constructor(allowed: number) {
    this.#allowed = allowed;
  }

  add(file: string, rejected: RejectedLine): void {
    this.#total += 1;
    this.#byCode[rejected.code] = (this.#byCode[rejected.code] ?? 0) + 1;
    if (this.#kept.length < KEPT_REJECTS) this.#kept.push({ file, ...rejected });
  }

  get totals(): RejectTotals {
    return { total: this.#total, byCode: { ...this.#byCode } };
  }

  get kept(): readonly FileReject[] {
    return this.#kept;
  }

  /** There are more than may be: nothing of the revision will be published. */
  get isTooLong(): boolean {
    return this.#total > this.#allowed;
  }

  /** The fault that names the first bad line and carries the others. */
  toFault(): DataFault {
    const [first] = this.#kept;
    if (first === undefined) throw new Error('There is no rejected line to tell of.');
    const more = this.#total - 1;
    const others = more === 0 ? '' : more === 1 ? ' 1 more line is bad.' : ` ${more} more lines are bad.`;
    const allowed = this.#allowed === 0 ? '' : ` The model's contract allows ${this.#allowed} bad lines.`;
    return new DataFault(
      {
        code: 'bad_lines',
        detail: `${first.file}, line ${first.line}, byte ${first.byteOffset}: ${first.detail}${others}${allowed} Mend the data and push again.`,
        file: first.file,
        line: first.line,
        byte_offset: first.byteOffset,
      },
      this.totals,
      this.#kept,
    );
  }
}
