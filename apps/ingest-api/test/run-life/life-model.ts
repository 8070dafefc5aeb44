/** A small model of what must be true of the runs of one classifier; one file a run. Pure: it knows no service. */
export interface Revision {
  readonly run: number;
  readonly revision: number;
  readonly content: number;
  state: 'receiving' | 'queued' | 'published' | 'superseded' | 'cancelled';
}

export class LifeModel {
  /** In the order of their declaration. */
  readonly revisions: Revision[] = [];
  /** Durable bytes of each content's upload; content that was never declared, or was removed, has none. */
  readonly offsets = new Map<number, number>();
  readonly #sizes: readonly number[];
  /** In the order in which they are to be loaded. */
  #queue: Revision[] = [];

  constructor(sizes: readonly number[]) {
    this.#sizes = sizes;
  }

  newest(run: number): Revision | undefined {
    return this.revisions.findLast((revision) => revision.run === run);
  }

  get published(): Revision | undefined {
    return this.revisions.find(({ state }) => state === 'published');
  }

  isComplete(content: number): boolean {
    return this.offsets.get(content) === this.#sizes[content];
  }

  /** @returns whether it is a new revision. */
  declare(run: number, content: number): boolean {
    const newest = this.newest(run);
    if (newest !== undefined && newest.state !== 'cancelled' && newest.content === content) return false;
    for (const older of this.revisions)
      if (older.run === run && (older.state === 'receiving' || older.state === 'queued'))
        older.state = 'cancelled';
    if (!this.offsets.has(content)) this.offsets.set(content, 0);
    const revision = (newest?.revision ?? 0) + 1;
    this.revisions.push({ run, revision, content, state: 'receiving' });
    this.#queueComplete();
    return true;
  }

  receive(content: number, bytes: number): void {
    this.offsets.set(content, (this.offsets.get(content) ?? 0) + bytes);
    this.#queueComplete();
  }

  giveUp(content: number): void {
    this.offsets.delete(content);
    for (const revision of this.revisions)
      if (revision.content === content && revision.state === 'receiving') revision.state = 'cancelled';
  }

  /** Everything that is queued, in its order. */
  load(): void {
    for (const revision of this.#queue) {
      if (revision.state !== 'queued') continue;
      const current = this.published;
      const isNewer = current === undefined || this.#isNewer(revision, current);
      if (isNewer && current !== undefined) current.state = 'superseded';
      revision.state = isNewer ? 'published' : 'superseded';
    }
    this.#queue = [];
  }

  publish(revision: Revision): void {
    const current = this.published;
    if (current !== undefined) current.state = 'superseded';
    revision.state = 'published';
  }

  #queueComplete(): void {
    for (const revision of this.revisions) {
      if (revision.state !== 'receiving' || !this.isComplete(revision.content)) continue;
      revision.state = 'queued';
      this.#queue.push(revision);
    }
  }

  /** The keys of these runs state no date, so the later declaration of a revision is the newer one. */
  #isNewer(candidate: Revision, current: Revision): boolean {
    return this.revisions.indexOf(candidate) > this.revisions.indexOf(current);
  }
}
