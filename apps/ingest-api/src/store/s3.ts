import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import {
  DeleteObjectsCommand,
  GetBucketLifecycleConfigurationCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  type LifecycleRule,
  PutObjectCommand,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import { defaultProvider } from '@aws-sdk/credential-provider-node';
import { IngestError } from '../errors.ts';
import { parseMarker } from './folder.ts';
import type { BucketLocation } from './open.ts';
import { BytesMissing, type Gathering, type Marker, type Segment, type Store, WrongStore } from './store.ts';

/** One object per piece. Many uploads share the memory, and write smaller ones. */
const GATHERING: Gathering = { mostBytes: 8 * 1024 * 1024, longestMs: 2_000 };
const CHUNK_BYTES = 1024 * 1024;
/** A reader has at most this many bytes, and requests, under way: the memory of a loader does not grow with an upload. */
const READ_AHEAD_BYTES = 16 * 1024 * 1024;
const READ_AHEAD_OBJECTS = 8;

const CONNECT_WITHIN_MS = 3_000;
/** Until the first byte of an answer ... */
const ANSWERS_WITHIN_MS = 15_000;
/** ... and for a whole call, with its retries. Clients wait longer for an answer to a PATCH. */
const CALL_ENDS_WITHIN_MS = 40_000;
/** The SDK waits between attempts: exponential backoff, with jitter. */
const ATTEMPTS = 4;
/** A read whose body was cut, or is not what was written, and a 404, which may be an old answer of a cache. */
const READ_ATTEMPTS = 4;
const READ_AGAIN_MS = 100;
/** S3 deletes at most this many objects with one request. */
const DELETED_AT_ONCE = 1_000;
/** Longer than any request may take: an object that is being written has no row yet. */
const ORPHAN_AFTER_MS = 24 * 60 * 60 * 1000;

/**
 * Keeps the bytes of uploads in a bucket of any S3-compatible server, for services and loaders on any number of hosts. An
 * upload is a list of segments in PostgreSQL: each is one object, with a key that was never used before, so that a late
 * writer overwrites nothing. (Not a multipart upload: those have a least size of a part, and a last step that may fail.
 * Why not @tus/s3-store: docs/decisions/0042.)
 */
export function s3Store(location: BucketLocation): Store {
  const bucket = new BucketClient(location);
  return {
    name: bucket.name,
    gathering: GATHERING,

    async prepare(keptMs) {
      await bucket.assertExists();
      return keptMs === undefined ? [] : bucket.shortLifecycleRules(keptMs);
    },

    /** One object is written while the next one is gathered. */
    async write({ upload, offsetBytes, pieces, mayWrite, onDurable }) {
      let durableBytes = offsetBytes;
      let writing: Promise<void> = Promise.resolve();
      const write = async (piece: readonly Uint8Array[]) => {
        await mayWrite();
        const segment = await bucket.putSegment(upload.uploadId, durableBytes, Buffer.concat(piece));
        await onDurable(durableBytes + segment.bytes, segment);
        durableBytes += segment.bytes;
      };
      try {
        for await (const piece of pieces) {
          await writing;
          writing = write(piece);
          writing.catch(() => {}); // awaited with the next piece, or below
        }
        await writing;
        return durableBytes;
      } finally {
        await writing.catch(() => {}); // the error of `pieces`, if there is one, is the cause
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
      const orphans: string[] = [];
      for await (const keys of bucket.oldKeys(ORPHAN_AFTER_MS)) {
        const known = await named(keys);
        orphans.push(...keys.filter((key) => !known.has(key)));
      }
      await bucket.delete(orphans);
      return orphans.length;
    },
  };
}

// Not "Bucket": TypeScript 7.0.2 emits the property `Bucket:` of a request as the alias of a class of that name.
class BucketClient {
  readonly name: string;
  /** The marker that this process found when it opened the store. */
  expected: Marker | undefined;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;

  constructor({ bucket, prefix, endpoint, region, forcePathStyle, caFile }: BucketLocation) {
    this.name = `s3://${bucket}/${prefix}`.replace(/\/$/, '');
    this.#bucket = bucket;
    this.#prefix = prefix;
    const agent = { keepAlive: true, maxSockets: 64 };
    this.#client = new S3Client({
      region,
      forcePathStyle,
      ...(endpoint !== undefined && { endpoint }),
      credentials: currentCredentials,
      maxAttempts: ATTEMPTS,
      // Some servers store the SDK's trailing checksums as content. Each object here has a checksum of its own.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: {
        connectionTimeout: CONNECT_WITHIN_MS,
        requestTimeout: ANSWERS_WITHIN_MS,
        throwOnRequestTimeout: true,
        httpAgent: agent,
        httpsAgent: { ...agent, ...(caFile !== undefined && { ca: readFileSync(caFile) }) },
      },
    });
  }

  /** Writes an object with a new key. Resolves when the server has acknowledged it. */
  async putSegment(uploadId: string, fromByte: number, body: Buffer): Promise<Segment> {
    const checksum = crc32(body);
    const place = String(fromByte).padStart(16, '0'); // so that a listing is in order
    const key = `uploads/${uploadId}/${place}-${randomBytes(8).toString('hex')}`;
    await this.#call('PutObject', (abortSignal) =>
      this.#client.send(
        new PutObjectCommand({
          Bucket: this.#bucket,
          Key: this.#prefix + key,
          Body: body, // not a stream, which could not be sent again
          ContentLength: body.byteLength,
          ContentType: 'application/octet-stream',
          ChecksumCRC32: base64OfCrc32(checksum),
        }),
        { abortSignal },
      ),
    );
    return { fromByte, bytes: body.byteLength, key, crc32: checksum };
  }

  /** The objects in their order. While the caller works on one, the next ones are read. */
  async *readAhead(
    segments: readonly Segment[],
  ): AsyncGenerator<{ readonly segment: Segment; readonly bytes: Buffer }> {
    const underWay: { segment: Segment; reading: Promise<Buffer> }[] = [];
    let bytesUnderWay = 0;
    let next = 0;
    try {
      for (;;) {
        for (let segment = segments[next]; segment !== undefined; segment = segments[next]) {
          const isFull =
            bytesUnderWay + segment.bytes > READ_AHEAD_BYTES || underWay.length === READ_AHEAD_OBJECTS;
          if (underWay.length > 0 && isFull) break;
          const reading = this.#readSegment(segment);
          reading.catch(() => {}); // awaited in its turn
          underWay.push({ segment, reading });
          bytesUnderWay += segment.bytes;
          next += 1;
        }
        const first = underWay.shift();
        if (first === undefined) return;
        yield { segment: first.segment, bytes: await first.reading };
        bytesUnderWay -= first.segment.bytes;
      }
    } finally {
      await Promise.allSettled(underWay.map(({ reading }) => reading));
    }
  }

  /**
   * @throws {BytesMissing} when the server says again and again that there is no such object, and still has the marker of
   *   this store: a 403, a 5xx, or another bucket in its place says nothing about the object.
   */
  async #readSegment(segment: Segment): Promise<Buffer> {
    return this.#again(segment, async () => {
      const bytes = await this.#getObject(segment.key);
      if (bytes === undefined) return undefined;
      if (bytes.byteLength === segment.bytes && crc32(bytes) === segment.crc32) return bytes;
      throw this.#fault(
        'GetObject',
        `gave ${bytes.byteLength} bytes for ${segment.key} that are not the ${segment.bytes} bytes that were written (CRC-32)`,
      );
    });
  }

  /** False when the server does not have the object, or has another number of bytes of it. */
  async hasSegment(segment: Segment): Promise<boolean> {
    const length = await this.#again(segment, () => this.#lengthOf(segment.key)).catch((error) => {
      if (error instanceof BytesMissing) return undefined;
      throw error;
    });
    return length === segment.bytes;
  }

  /** Repeats a read that fails, or finds nothing. */
  async #again<T>(segment: Segment, read: () => Promise<T | undefined>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        const found = await read();
        if (found !== undefined) return found;
        if (attempt === READ_ATTEMPTS) {
          await this.assertIsStore();
          throw new BytesMissing(`The bucket ${this.name} does not have the object ${segment.key} any more.`);
        }
      } catch (error) {
        if (attempt === READ_ATTEMPTS) throw error;
      }
      await delay(Math.random() * READ_AGAIN_MS * 2 ** attempt);
    }
  }

  async #getObject(key: string): Promise<Buffer | undefined> {
    return this.#call('GetObject', async (abortSignal) => {
      const { Body } = await this.#client.send(
        new GetObjectCommand({ Bucket: this.#bucket, Key: this.#prefix + key }),
        {
          abortSignal,
        },
      );
      if (Body === undefined) throw new Error('The answer has no body.');
      const bytes = await Promise.race([Body.transformToByteArray(), rejectedWhenAborted(abortSignal)]);
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    });
  }

  async #lengthOf(key: string): Promise<number | undefined> {
    const head = await this.#call('HeadObject', (abortSignal) =>
      this.#client.send(new HeadObjectCommand({ Bucket: this.#bucket, Key: this.#prefix + key }), {
        abortSignal,
      }),
    );
    return head?.ContentLength;
  }

  async delete(keys: readonly string[]): Promise<void> {
    for (let start = 0; start < keys.length; start += DELETED_AT_ONCE) {
      const Objects = keys.slice(start, start + DELETED_AT_ONCE).map((key) => ({ Key: this.#prefix + key }));
      const answer = await this.#call('DeleteObjects', (abortSignal) =>
        this.#client.send(
          new DeleteObjectsCommand({ Bucket: this.#bucket, Delete: { Objects, Quiet: true } }),
          { abortSignal },
        ),
      );
      const failed = (answer?.Errors ?? []).filter(({ Code }) => Code !== 'NoSuchKey');
      const [first] = failed;
      if (first !== undefined)
        throw this.#fault('DeleteObjects', `refused ${failed.length} objects, the first with ${first.Code}`);
    }
  }

  /** Keys of uploads that are older than `ageMs` by the clock of the server, which has just written the marker. */
  async *oldKeys(ageMs: number): AsyncGenerator<readonly string[]> {
    const marker = await this.#call('HeadObject', (abortSignal) =>
      this.#client.send(new HeadObjectCommand({ Bucket: this.#bucket, Key: this.#markerKey }), {
        abortSignal,
      }),
    );
    const nowMs = marker?.LastModified?.getTime();
    if (nowMs === undefined) return;
    const pages = paginateListObjectsV2(
      { client: this.#client },
      { Bucket: this.#bucket, Prefix: `${this.#prefix}uploads/` },
    );
    for (;;) {
      const page = await this.#call('ListObjectsV2', () => pages.next());
      if (page === undefined || page.done) return;
      const old = (page.value.Contents ?? []).filter(
        ({ LastModified }) => LastModified !== undefined && LastModified.getTime() < nowMs - ageMs,
      );
      yield old.flatMap(({ Key }) => Key?.slice(this.#prefix.length) ?? []);
    }
  }

  async readMarker(): Promise<Marker | undefined> {
    const text = await this.#getObject(MARKER);
    return text === undefined ? undefined : parseMarker(text.toString(), `${this.name}/${MARKER}`);
  }

  async writeMarker(marker: Marker): Promise<void> {
    await this.#call('PutObject', (abortSignal) =>
      this.#client.send(
        new PutObjectCommand({
          Bucket: this.#bucket,
          Key: this.#markerKey,
          Body: `${JSON.stringify(marker)}\n`,
          ContentType: 'application/json',
        }),
        { abortSignal },
      ),
    );
  }

  get #markerKey(): string {
    return this.#prefix + MARKER;
  }

  /** @throws a `storage_fault` when the bucket is not the store that this process opened. */
  async assertIsStore(): Promise<void> {
    const { expected } = this;
    const found = await this.readMarker();
    if (expected === undefined) return;
    if (found?.storeId === expected.storeId && found.generation >= expected.generation) return;
    const what = found === undefined ? 'has no marker of a store any more' : `is store ${found.storeId} now`;
    throw new IngestError(
      'storage_fault',
      `${this.name} was store ${expected.storeId} when this process started, and ${what}. Check INGEST_STORE and INGEST_S3_ENDPOINT.`,
      { retryAfterSeconds: 10 },
    );
  }

  /** @throws {WrongStore} when the server says that there is no such bucket, or refuses the credentials. */
  async assertExists(): Promise<void> {
    try {
      await this.#client.send(new HeadBucketCommand({ Bucket: this.#bucket }), {
        abortSignal: AbortSignal.timeout(CALL_ENDS_WITHIN_MS),
      });
    } catch (error) {
      const status = statusOf(error);
      // A server that cannot be reached now is asked again: a process may start before its store.
      if (status !== 404 && status !== 403) return;
      throw new WrongStore(
        status === 404
          ? `There is no bucket "${this.#bucket}". Create it, or correct INGEST_STORE, INGEST_S3_ENDPOINT or INGEST_S3_REGION.`
          : `The server of the bucket "${this.#bucket}" refuses the credentials (403). Check the AWS credentials of this process and the policy of the bucket.`,
      );
    }
  }

  /** A sentence for each rule of the bucket that may delete objects of this store before `keptMs`. */
  async shortLifecycleRules(keptMs: number): Promise<readonly string[]> {
    const answer = await this.#client
      .send(new GetBucketLifecycleConfigurationCommand({ Bucket: this.#bucket }), {
        abortSignal: AbortSignal.timeout(CALL_ENDS_WITHIN_MS),
      })
      .catch(() => undefined); // many servers have no such rules, and many keys may not read them
    const keptDays = Math.ceil(keptMs / DAY_MS);
    return (answer?.Rules ?? [])
      .filter((rule) => deletesWithin(rule, this.#prefix, keptMs))
      .map(
        ({ ID, Expiration }) =>
          `The lifecycle rule ${JSON.stringify(ID ?? '')} of the bucket ${this.#bucket} deletes objects after ${Expiration?.Days} days, and uploads may need theirs for ${keptDays} days (INGEST_EXPIRE_UPLOADS_HOURS and INGEST_KEEP_FILES_HOURS). Remove the rule for the prefix ${this.#prefix}uploads/.`,
      );
  }

  /** Undefined for a 404 of an object. @throws a `storage_fault` for every other failure of the call. */
  async #call<T>(operation: string, call: (abortSignal: AbortSignal) => Promise<T>): Promise<T | undefined> {
    const abortSignal = AbortSignal.timeout(CALL_ENDS_WITHIN_MS);
    try {
      return await call(abortSignal);
    } catch (error) {
      const { name } = error as Error;
      if (name === 'NoSuchKey' || (name === 'NotFound' && statusOf(error) === 404)) return undefined;
      throw this.#fault(operation, abortSignal.aborted ? 'did not answer in time' : describe(error), error);
    }
  }

  #fault(operation: string, found: string, cause?: unknown): IngestError {
    const isFull = statusOf(cause) === 507 || FULL.has((cause as Error | undefined)?.name ?? '');
    return new IngestError(
      isFull ? 'insufficient_storage' : 'storage_fault',
      `The bucket ${this.name} ${found} (${operation}). Try again.`,
      { retryAfterSeconds: isFull ? 60 : 10 },
    );
  }
}

const MARKER = 'store.json';
const DAY_MS = 24 * 60 * 60 * 1000;
const FULL = new Set(['QuotaExceeded', 'XMinioStorageFull', 'InsufficientStorage']);

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } } | undefined)?.$metadata?.httpStatusCode;
}

/** Without the message of the server: some repeat what a request contained. */
function describe(error: unknown): string {
  const { name, code, message } = error as NodeJS.ErrnoException;
  const status = statusOf(error);
  return status === undefined ? `cannot be reached: ${code ?? message}` : `answered ${status} ${name}`;
}

function deletesWithin(
  { Status, Expiration, Filter, Prefix }: LifecycleRule,
  prefix: string,
  keptMs: number,
) {
  const days = Expiration?.Days;
  if (Status !== 'Enabled' || days === undefined || days * DAY_MS >= keptMs) return false;
  const rulePrefix = Filter?.Prefix ?? Filter?.And?.Prefix ?? Prefix ?? '';
  const uploads = `${prefix}uploads/`;
  return uploads.startsWith(rulePrefix) || rulePrefix.startsWith(uploads);
}

/** S3 wants the four bytes, the most significant first, in base64. */
function base64OfCrc32(checksum: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(checksum);
  return bytes.toString('base64');
}

function rejectedWhenAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** Credentials in a file may be replaced at any time, so those without an end are read again each minute. */
const READ_CREDENTIALS_EVERY_MS = 60_000;
/** The SDK renews credentials that expire within this time. */
const SDK_RENEWS_BEFORE_MS = 5 * 60_000;

async function currentCredentials() {
  const credentials = await defaultProvider({ ignoreCache: true })();
  if (credentials.expiration !== undefined) return credentials;
  return {
    ...credentials,
    expiration: new Date(Date.now() + SDK_RENEWS_BEFORE_MS + READ_CREDENTIALS_EVERY_MS),
  };
}
