import { BucketClient, READ_AHEAD_OBJECTS, TIMING, type Timing, WRITTEN_AT_ONCE } from './bucket.ts';
import type { BucketLocation } from './open.ts';
import { BytesMissing, type Gathering, type Store } from './store.ts';
import { freeChunks } from './write.ts';

/** One object per piece. Each is in memory twice for a moment, as chunks and as one buffer, so all share less than in a folder. */
const GATHERING: Gathering = {
  mostBytes: 8 * 1024 * 1024,
  leastBytes: 64 * 1024,
  sharedBytes: 16 * 1024 * 1024,
  longestMs: 2_000,
};
const CHUNK_BYTES = 1024 * 1024;
/** Longer than any request may take: an object that is being written has no row yet. */
const ORPHAN_AFTER_MS = 24 * 60 * 60 * 1000;

/**
 * Keeps the bytes of uploads in a bucket of any S3-compatible server, for services and loaders on any number of hosts. An
 * upload is a list of segments in PostgreSQL: each is one object, with a key that was never used before, so that a late
 * writer overwrites nothing. (Not a multipart upload: those have a least size of a part, and a last step that may fail.
 * Why not @tus/s3-store: docs/decisions/0042.)
 */
export function s3Store(location: BucketLocation, timing: Timing = TIMING): Store {
  const bucket = new BucketClient(location, timing);
  const bodies = new Bodies();
  return {
    name: bucket.name,
    gathering: GATHERING,

    async prepare(keptMs) {
      await bucket.assertExists();
      return keptMs === undefined ? [] : bucket.shortLifecycleRules(keptMs);
    },

    newFileName: () => undefined,

    /** One object is written while the next one is gathered. */
    async write({ upload, offsetBytes, pieces, mayWrite, onDurable }) {
      let durableBytes = offsetBytes;
      let writing: Promise<void> = Promise.resolve();
      const write = (piece: Piece[]) =>
        bodies.use(async (fill) => {
          await mayWrite();
          const segment = await bucket.putSegment(upload.uploadId, durableBytes, fill(piece.splice(0)));
          await onDurable(durableBytes + segment.bytes, segment);
          durableBytes += segment.bytes;
        });
      const iterator = pieces[Symbol.asyncIterator]();
      try {
        for (;;) {
          const piece = await nextPiece(iterator);
          await writing;
          if (piece.length === 0) return durableBytes;
          writing = write(piece);
          writing.catch(() => {}); // awaited with the next piece
        }
      } finally {
        await writing.catch(() => {}); // the error of `pieces`, if there is one, is the cause
        await iterator.return?.();
      }
    },

    async *read({ uploadId, segments }) {
      let nextByte = 0;
      for await (const { segment, bytes } of bucket.readAhead(segments)) {
        if (segment.fromByte !== nextByte)
          throw new BytesMissing(`Upload ${uploadId} has no object with its byte ${nextByte}.`);
        nextByte += segment.bytes;
        for (let start = 0; start < bytes.byteLength; start += CHUNK_BYTES)
          yield bytes.subarray(start, start + CHUNK_BYTES);
      }
    },

    async durableBytes({ segments }) {
      let bytes = 0;
      for (let start = 0; start < segments.length; start += READ_AHEAD_OBJECTS) {
        const some = segments.slice(start, start + READ_AHEAD_OBJECTS);
        const arePresent = await Promise.all(some.map((segment) => bucket.hasSegment(segment)));
        for (const [i, segment] of some.entries()) {
          if (segment.fromByte !== bytes || !arePresent[i]) return bytes;
          bytes += segment.bytes;
        }
      }
      return bytes;
    },

    maybeShort: async () => [],

    // Its objects have keys of their own, and its claim is void: what it still writes gets no row.
    takeOver: async ({ fileName }) => fileName,

    discard: ({ segments }) => bucket.delete(segments.map(({ key }) => key)),

    remove: (uploads) => bucket.delete(uploads.flatMap(({ segments }) => segments.map(({ key }) => key))),

    probe: () => bucket.assertIsStore(),

    freeBytes: async () => null,

    readMarker: () => bucket.readMarker(),
    writeMarker: (marker) => bucket.writeMarker(marker),
    expectMarker: (marker) => {
      bucket.expected = marker;
    },

    async removeOrphans(named) {
      let removed = 0;
      for await (const keys of bucket.oldKeys(ORPHAN_AFTER_MS)) {
        const known = await named(keys);
        const orphans = keys.filter((key) => !known.has(key));
        await bucket.delete(orphans);
        removed += orphans.length;
      }
      return removed;
    },
  };
}

type Piece = readonly Uint8Array[];

/** The next piece in an array that its user empties, so that nothing holds its chunks while others are awaited; [] at the end. */
async function nextPiece(pieces: AsyncIterator<Piece>): Promise<Piece[]> {
  const { done, value } = await pieces.next();
  return done === true ? [] : [value];
}

/**
 * The buffers of the objects that this process writes at the same time, used again and again: as garbage they would be most of
 * the memory of a service. The SDK needs an object in one buffer, to send it again.
 */
class Bodies {
  /** The last one used is used next, so that few of them grow. */
  readonly #free: Buffer[] = Array.from({ length: WRITTEN_AT_ONCE }, () => Buffer.alloc(0));
  readonly #waiting: ((buffer: Buffer) => void)[] = [];

  /** Waits for a buffer. `fill` copies pieces into it; the result is the caller's until `work` ends. */
  async use<T>(work: (fill: (pieces: readonly Piece[]) => Buffer) => Promise<T>): Promise<T> {
    let buffer = this.#free.pop() ?? (await new Promise<Buffer>((resolve) => this.#waiting.push(resolve)));
    const fill = (pieces: readonly Piece[]) => {
      const chunks = pieces.flat();
      const bytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
      if (buffer.byteLength < bytes) buffer = Buffer.allocUnsafeSlow(bytes);
      let at = 0;
      for (const chunk of chunks) {
        buffer.set(chunk, at);
        at += chunk.byteLength;
      }
      freeChunks(chunks);
      return buffer.subarray(0, bytes);
    };
    try {
      return await work(fill);
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free.push(buffer);
      else next(buffer);
    }
  }
}
