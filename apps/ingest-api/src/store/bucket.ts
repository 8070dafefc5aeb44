import { randomBytes } from 'node:crypto';
import { addAbortSignal, Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import {
  DeleteObjectsCommand,
  GetBucketLifecycleConfigurationCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  type LifecycleRule,
  ListObjectsV2Command,
  PutObjectCommand,
  type PutObjectCommandInput,
  S3Client,
} from '@aws-sdk/client-s3';
import { IngestError } from '../errors.ts';
import { CurrentCredentials } from './bucket-credentials.ts';
import { parseMarker } from './folder.ts';
import type { BucketLocation } from './open.ts';
import { BytesMissing, type Marker, type Segment, WrongStore } from './store.ts';
import { freeChunks } from './write.ts';

/** How long this process waits for the server. Only tests use others than these. */
export const TIMING = {
  connectsWithinMs: 3_000,
  /** Until the first byte of an answer, and between two bytes of its body ... */
  answersWithinMs: 15_000,
  /** ... and for a whole call, with its attempts. Clients wait longer for an answer to a PATCH. */
  callEndsWithinMs: 40_000,
  /** Before the second attempt; twice as long before each later one, with jitter. */
  againAfterMs: 100,
} as const;
export type Timing = Readonly<Record<keyof typeof TIMING, number>>;

/** A reader has at most this many bytes, and requests, under way: the memory of a loader does not grow with an upload. */
const READ_AHEAD_BYTES = 16 * 1024 * 1024;
export const READ_AHEAD_OBJECTS = 8;

/** Objects of all uploads of this process, and so connections for them. */
export const WRITTEN_AT_ONCE = 16;
const ATTEMPTS = 5;
/** A server that asks for fewer requests gets longer pauses. */
const BUSY_FACTOR = 5;
/** S3 deletes at most this many objects with one request. */
const DELETED_AT_ONCE = 1_000;

// Not "Bucket": TypeScript 7.0.2 emits the property `Bucket:` of a request as the alias of a class of that name.
/**
 * The requests to a bucket: each is repeated while it fails, with the credentials of that moment, and its answer counts only
 * when it confirms what was asked. What the objects mean is the matter of `s3.ts`.
 */
export class BucketClient {
  readonly name: string;
  /** The marker that this process found when it opened the store. */
  expected: Marker | undefined;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #timing: Timing;
  readonly #credentials = new CurrentCredentials();

  constructor({ bucket, prefix, endpoint, region, forcePathStyle, ca }: BucketLocation, timing: Timing) {
    this.name = `s3://${bucket}/${prefix}`.replace(/\/$/, '');
    this.#bucket = bucket;
    this.#prefix = prefix;
    this.#timing = timing;
    const agent = { keepAlive: true, maxSockets: 4 * WRITTEN_AT_ONCE };
    this.#client = new S3Client({
      region,
      forcePathStyle,
      ...(endpoint !== undefined && { endpoint }),
      credentials: this.#credentials.provider,
      maxAttempts: 1, // `#call` repeats more than the SDK does
      // Or else each large object has a new connection, without `ca`, and waits for a 100 that some servers never send.
      expectContinueHeader: false,
      // Some servers store the SDK's trailing checksums as content. Each object here has a checksum of its own.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: {
        connectionTimeout: timing.connectsWithinMs,
        requestTimeout: timing.answersWithinMs,
        socketTimeout: timing.answersWithinMs,
        throwOnRequestTimeout: true,
        httpAgent: agent,
        httpsAgent: { ...agent, ...(ca !== undefined && { ca }) },
      },
    });
  }

  /** Writes an object with a new key. Resolves when the server has acknowledged it. */
  async putSegment(uploadId: string, fromByte: number, body: Buffer): Promise<Segment> {
    const checksum = crc32(body);
    const place = String(fromByte).padStart(16, '0'); // so that a listing is in order
    const key = `uploads/${uploadId}/${place}-${randomBytes(8).toString('hex')}`;
    await this.#put(key, {
      Body: body, // not a stream, which could not be sent again
      ContentLength: body.byteLength,
      ContentType: 'application/octet-stream',
      ChecksumCRC32: base64OfCrc32(checksum),
    });
    return { fromByte, bytes: body.byteLength, key, crc32: checksum };
  }

  async #put(key: string, object: Omit<PutObjectCommandInput, 'Bucket' | 'Key'>): Promise<void> {
    await this.#call('PutObject', async (abortSignal) => {
      const { ETag, ChecksumCRC32 } = await this.#client.send(
        new PutObjectCommand({ ...object, Bucket: this.#bucket, Key: this.#prefix + key }),
        { abortSignal },
      );
      // Every S3 server names what it has stored. The page of a gateway has status 200, too.
      const isStored = ETag !== undefined && (ChecksumCRC32 ?? object.ChecksumCRC32) === object.ChecksumCRC32;
      if (!isStored) throw this.#fault('PutObject', 'did not confirm the object that was sent');
    });
  }

  /** The objects in their order. Each is the caller's until it asks for the next one; meanwhile more are read. */
  async *readAhead(
    segments: readonly Segment[],
  ): AsyncGenerator<{ readonly segment: Segment; readonly bytes: Buffer }> {
    const underWay: { segment: Segment; reading: Promise<Buffer> }[] = [];
    const stop = new AbortController();
    let bytesUnderWay = 0;
    let next = 0;
    try {
      for (;;) {
        for (let segment = segments[next]; segment !== undefined; segment = segments[next]) {
          const isFull =
            bytesUnderWay + segment.bytes > READ_AHEAD_BYTES || underWay.length === READ_AHEAD_OBJECTS;
          if (underWay.length > 0 && isFull) break;
          const reading = this.#readSegment(segment, stop.signal);
          reading.catch(() => {}); // awaited in its turn
          underWay.push({ segment, reading });
          bytesUnderWay += segment.bytes;
          next += 1;
        }
        const first = underWay.shift();
        if (first === undefined) return;
        const bytes = await first.reading;
        yield { segment: first.segment, bytes };
        freeChunks([bytes]);
        bytesUnderWay -= first.segment.bytes;
      }
    } finally {
      stop.abort();
      await Promise.allSettled(underWay.map(({ reading }) => reading));
    }
  }

  /**
   * @throws {BytesMissing} when the server says again and again that there is no such object, and still has the marker of
   *   this store: a 403, a 5xx, or another bucket in its place says nothing about the object.
   */
  async #readSegment(segment: Segment, stop?: AbortSignal): Promise<Buffer> {
    const bytes = await this.#find(
      'GetObject',
      async (abortSignal) => {
        const bytes = await this.#getObject(segment.key, segment.bytes, abortSignal);
        if (bytes.byteLength === segment.bytes && crc32(bytes) === segment.crc32) return bytes;
        throw this.#fault(
          'GetObject',
          `gave ${bytes.byteLength} bytes for ${segment.key} that are not the ${segment.bytes} bytes that were written (CRC-32). If it does so again, delete the object: the next push then sends its bytes again`,
        );
      },
      stop,
    );
    if (bytes !== undefined) return bytes;
    await this.assertIsStore();
    throw new BytesMissing(`The bucket ${this.name} does not have the object ${segment.key} any more.`);
  }

  /** False when the server does not have the object, and is this store. */
  async hasSegment(segment: Segment): Promise<boolean> {
    const length = await this.#find('HeadObject', async (abortSignal) => {
      const { ContentLength } = await this.#head(segment.key, abortSignal);
      if (ContentLength === segment.bytes) return ContentLength;
      throw this.#fault(
        'HeadObject',
        `says that ${segment.key} has ${ContentLength} bytes, and not the ${segment.bytes} that were written`,
      );
    });
    if (length !== undefined) return true;
    try {
      // An answer to HEAD has no body that says what is missing: the object, the bucket, or the whole server.
      await this.#readSegment(segment);
      return true;
    } catch (error) {
      if (error instanceof BytesMissing) return false;
      throw error;
    }
  }

  /** @throws when it has more than `mostBytes`. */
  async #getObject(key: string, mostBytes: number, abortSignal: AbortSignal): Promise<Buffer> {
    const { Body } = await this.#client.send(
      new GetObjectCommand({ Bucket: this.#bucket, Key: this.#prefix + key }),
      {
        abortSignal,
      },
    );
    if (!(Body instanceof Readable)) throw this.#fault('GetObject', 'gave an answer without a body');
    const bytes = Buffer.allocUnsafeSlow(mostBytes);
    let at = 0;
    for await (const chunk of addAbortSignal(abortSignal, Body) as AsyncIterable<Buffer>) {
      if (at + chunk.byteLength > mostBytes)
        throw this.#fault('GetObject', `gave more than the ${mostBytes} bytes that ${key} may have`);
      bytes.set(chunk, at);
      at += chunk.byteLength;
      freeChunks([chunk]);
    }
    return bytes.subarray(0, at);
  }

  async #head(key: string, abortSignal: AbortSignal) {
    try {
      return await this.#client.send(
        new HeadObjectCommand({ Bucket: this.#bucket, Key: this.#prefix + key }),
        {
          abortSignal,
        },
      );
    } catch (error) {
      throw statusOf(error) === 404 ? new ObjectMissing('HEAD answered 404.') : error;
    }
  }

  async delete(keys: readonly string[]): Promise<void> {
    for (let start = 0; start < keys.length; start += DELETED_AT_ONCE) {
      const Objects = keys.slice(start, start + DELETED_AT_ONCE).map((key) => ({ Key: this.#prefix + key }));
      await this.#call('DeleteObjects', async (abortSignal) => {
        const { Deleted = [], Errors = [] } = await this.#client.send(
          new DeleteObjectsCommand({ Bucket: this.#bucket, Delete: { Objects } }),
          { abortSignal },
        );
        const gone = new Set(
          [...Deleted, ...Errors.filter(({ Code }) => Code === 'NoSuchKey')].map(({ Key }) => Key),
        );
        const left = Objects.filter(({ Key }) => !gone.has(Key)).length;
        if (left > 0)
          throw this.#fault(
            'DeleteObjects',
            `did not delete ${left} of ${Objects.length} objects${Errors[0] === undefined ? '' : ` (${Errors[0].Code})`}`,
          );
      });
    }
  }

  /** Keys of uploads that are older than `ageMs` by the clock of the server, which has just written the marker. */
  async *oldKeys(ageMs: number): AsyncGenerator<readonly string[]> {
    const marker = await this.#find('HeadObject', (abortSignal) => this.#head(MARKER, abortSignal));
    const nowMs = marker?.LastModified?.getTime();
    if (nowMs === undefined) return;
    let ContinuationToken: string | undefined;
    do {
      const page = await this.#call('ListObjectsV2', (abortSignal) =>
        this.#client.send(
          new ListObjectsV2Command({
            Bucket: this.#bucket,
            Prefix: `${this.#prefix}uploads/`,
            ContinuationToken,
          }),
          { abortSignal },
        ),
      );
      const old = (page.Contents ?? []).filter(
        ({ LastModified }) => LastModified !== undefined && LastModified.getTime() < nowMs - ageMs,
      );
      yield old.flatMap(({ Key }) => Key?.slice(this.#prefix.length) ?? []);
      ContinuationToken = page.NextContinuationToken;
    } while (ContinuationToken !== undefined);
  }

  async readMarker(): Promise<Marker | undefined> {
    return this.#find('GetObject', (abortSignal) => this.#getMarker(abortSignal));
  }

  async #getMarker(abortSignal: AbortSignal): Promise<Marker> {
    const text = await this.#getObject(MARKER, MOST_MARKER_BYTES, abortSignal);
    return parseMarker(text.toString(), `${this.name}/${MARKER}`);
  }

  async writeMarker(marker: Marker): Promise<void> {
    const Body = Buffer.from(`${JSON.stringify(marker)}\n`);
    await this.#put(MARKER, {
      Body,
      ContentType: 'application/json',
      ChecksumCRC32: base64OfCrc32(crc32(Body)),
    });
  }

  /** @throws a `storage_fault` when the bucket is not the store that this process opened. */
  async assertIsStore(): Promise<void> {
    const { expected } = this;
    if (expected === undefined) {
      await this.readMarker();
      return;
    }
    await this.#call('GetObject', async (abortSignal) => {
      const found = await this.#getMarker(abortSignal).catch((error) => {
        if (isMissing(error)) return undefined;
        throw error;
      });
      if (found?.storeId === expected.storeId && found.generation >= expected.generation) return;
      throw new IngestError(
        'storage_fault',
        `${this.name} was store ${expected.storeId} (generation ${expected.generation}) when this process started, and ${
          found === undefined
            ? 'has no marker of a store any more'
            : `is store ${found.storeId} (generation ${found.generation}) now`
        }. Check INGEST_STORE and INGEST_S3_ENDPOINT.`,
        { retryAfterSeconds: 10 },
      );
    });
  }

  /** @throws {WrongStore} when the server says that there is no such bucket, or refuses the credentials. */
  async assertExists(): Promise<void> {
    let status: number | undefined;
    await this.#call('HeadBucket', async (abortSignal) => {
      try {
        await this.#client.send(new HeadBucketCommand({ Bucket: this.#bucket }), { abortSignal });
      } catch (error) {
        status = statusOf(error);
        throw error;
      }
      status = 200;
    }).catch(() => {}); // a server that cannot be reached now is asked again: a process may start before its store
    if (status === 404)
      throw new WrongStore(
        `There is no bucket "${this.#bucket}". Create it, or correct INGEST_STORE, INGEST_S3_ENDPOINT, INGEST_S3_REGION or the AWS credentials.`,
      );
    if (status === 403)
      throw new WrongStore(
        `The server of the bucket "${this.#bucket}" refuses the credentials (403). Check the AWS credentials of this process and the policy of the bucket.`,
      );
  }

  /** A sentence for each rule of the bucket that may delete objects of this store before `keptMs`. */
  async shortLifecycleRules(keptMs: number): Promise<readonly string[]> {
    const answer = await this.#client
      .send(new GetBucketLifecycleConfigurationCommand({ Bucket: this.#bucket }), {
        abortSignal: AbortSignal.timeout(this.#timing.callEndsWithinMs),
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

  /**
   * Undefined when the server says each time that there is no such object: one such answer may be an old one, of a cache.
   *
   * @throws a `storage_fault` for every other failure, as `#call` does.
   */
  async #find<T>(
    operation: string,
    find: (abortSignal: AbortSignal) => Promise<T>,
    stop?: AbortSignal,
  ): Promise<T | undefined> {
    let misses = 0;
    const call = async (abortSignal: AbortSignal) => {
      try {
        return await find(abortSignal);
      } catch (error) {
        if (isMissing(error)) misses += 1;
        throw error;
      }
    };
    try {
      return await this.#call(operation, call, stop);
    } catch (error) {
      if (misses === ATTEMPTS) return undefined;
      throw error;
    }
  }

  /**
   * Repeats a call that fails, whatever the reason: nothing that it asks for is different the second time, and some servers
   * refuse, with any status, what they do a moment later.
   *
   * @throws a `storage_fault`, or `insufficient_storage`.
   */
  async #call<T>(
    operation: string,
    call: (abortSignal: AbortSignal) => Promise<T>,
    stop?: AbortSignal,
  ): Promise<T> {
    // Not AbortSignal.timeout: what listens to such a signal, and an object's bytes with it, is kept until the time has passed.
    const controller = new AbortController();
    const abort = () => controller.abort();
    const timer = setTimeout(abort, this.#timing.callEndsWithinMs);
    stop?.addEventListener('abort', abort, { once: true });
    if (stop?.aborted) abort();
    try {
      return await this.#attempts(operation, () => call(controller.signal), controller.signal);
    } finally {
      clearTimeout(timer);
      stop?.removeEventListener('abort', abort);
    }
  }

  async #attempts<T>(operation: string, call: () => Promise<T>, abortSignal: AbortSignal): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      let pauseMs = this.#timing.againAfterMs * 2 ** (attempt - 1) * (0.5 + Math.random() / 2);
      try {
        return await call();
      } catch (error) {
        if (abortSignal.aborted) throw this.#fault(operation, 'did not answer in time');
        const status = statusOf(error);
        const isLast = attempt === ATTEMPTS || isFull(error);
        if (isLast)
          throw error instanceof IngestError ? error : this.#fault(operation, describe(error), error);
        // Refused credentials are a 400, 401, 403 or 404, or the connection is closed before the whole body has arrived.
        if (status === undefined || (status < 500 && status !== 429 && !isMissing(error)))
          this.#credentials.forget();
        if (status === 429 || status === 503) pauseMs *= BUSY_FACTOR;
      }
      await delay(pauseMs, undefined, { signal: abortSignal }).catch(() => {}); // the next attempt says that it was aborted
    }
  }

  #fault(operation: string, found: string, cause?: unknown): IngestError {
    const lacksRoom = isFull(cause);
    return new IngestError(
      lacksRoom ? 'insufficient_storage' : 'storage_fault',
      `The bucket ${this.name} ${found} (${operation}). Try again.`,
      { retryAfterSeconds: lacksRoom ? 60 : 10 },
    );
  }
}

/** What HEAD says of an object, with the name that the answer to a GET has. */
class ObjectMissing extends Error {
  override readonly name = 'NoSuchKey';
}

const MARKER = 'store.json';
const MOST_MARKER_BYTES = 4096;
const DAY_MS = 24 * 60 * 60 * 1000;
const ERROR_CODE = /^[A-Za-z.]{1,64}$/;
const FULL = new Set(['QuotaExceeded', 'XMinioStorageFull', 'InsufficientStorage']);

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } } | undefined)?.$metadata?.httpStatusCode;
}

function isFull(error: unknown): boolean {
  return statusOf(error) === 507 || FULL.has((error as Error | undefined)?.name ?? '');
}

/** Not the 404 of a gateway, or of a bucket. */
function isMissing(error: unknown): boolean {
  return (error as Error).name === 'NoSuchKey';
}

/** Without the message of the server: some repeat what a request contained. */
function describe(error: unknown): string {
  const { name, code, message } = error as NodeJS.ErrnoException;
  const status = statusOf(error);
  if (status !== undefined) return `answered ${status}${ERROR_CODE.test(name) ? ` ${name}` : ''}`;
  if (name === 'CredentialsProviderError') return 'cannot be asked: this process has no AWS credentials';
  return `cannot be reached: ${code ?? (name === 'Error' ? message : name)}`;
}

function deletesWithin(
  { Status, Expiration, Filter, Prefix }: LifecycleRule,
  prefix: string,
  keptMs: number,
) {
  const days = Expiration?.Days;
  if (Status !== 'Enabled' || days === undefined || days * DAY_MS >= keptMs) return false;
  if (Filter?.Tag !== undefined || (Filter?.And?.Tags ?? []).length > 0) return false; // no object here has a tag
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
