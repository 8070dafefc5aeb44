import { createHash } from 'node:crypto';
import { MIMEType } from 'node:util';
import type { Request, Response } from 'express';
import { IngestError } from '../errors.ts';

interface JsonLimits {
  readonly mostBytes: number;
  readonly mostValues: number;
}

/** For every route but those of manifests and contracts: a reason, a sign-in. */
const SMALL: JsonLimits = { mostBytes: 16 * 1024, mostValues: 200 };

/**
 * Reads a small JSON body. Call it after the headers, the token included, were found good: no byte of a body
 * is parsed before.
 *
 * @returns undefined when there is no body.
 */
export async function readJson(
  req: Request,
  res: Response,
  { mostBytes, mostValues }: JsonLimits = SMALL,
): Promise<unknown> {
  if (!hasBody(req)) return undefined;
  const shape = new JsonShape(mostValues);
  const buffer = new GrowingBuffer(mostBytes, '');
  await receiveJson(req, res, {
    mostBytes,
    onChunk: (chunk) => {
      shape.next(chunk);
      buffer.add(chunk);
    },
  });
  return parseJson(buffer.take());
}

/** Long enough for a manifest of 32 MiB at 1 Mbit/s. */
const RECEIVE_WITHIN_MS = 300_000;

interface JsonReceiver {
  readonly mostBytes: number;
  onChunk(chunk: Buffer): void;
}

/**
 * Receives a body chunk by chunk, and never holds it as a whole. Rejects at once with what `onChunk` throws.
 */
export async function receiveJson(
  req: Request,
  res: Response,
  { mostBytes, onChunk }: JsonReceiver,
): Promise<void> {
  requireIdentity(req, res);
  requireMediaType(req, 'application/json', 'charset');
  const tooLarge = () =>
    new IngestError(
      'too_large',
      `The request body is larger than ${mostBytes} bytes, the limit of this address.`,
    );
  if (Number(req.headers['content-length'] ?? 0) > mostBytes) throw tooLarge();
  let receivedBytes = 0;
  letBodyCome(req, res);
  await new Promise<void>((resolve, reject) => {
    const onData = (chunk: Buffer) => {
      try {
        receivedBytes += chunk.length;
        if (receivedBytes > mostBytes) throw tooLarge();
        if (receivedBytes > FREE_BYTES) chargeMemory(res, chunk.length);
        onChunk(chunk);
      } catch (error) {
        settle(error);
      }
    };
    const onEnd = () => settle(undefined);
    const onCut = () =>
      settle(new IngestError('invalid_request', 'The connection closed before the whole body arrived.'));
    const timer = setTimeout(
      () =>
        settle(
          new IngestError(
            'request_timeout',
            `The request body did not arrive within ${RECEIVE_WITHIN_MS / 1000} s.`,
          ),
        ),
      RECEIVE_WITHIN_MS,
    );
    const settle = (error: unknown) => {
      clearTimeout(timer);
      req.off('data', onData).off('end', onEnd).off('error', onCut).off('close', onCut);
      if (error === undefined) resolve();
      else reject(error);
    };
    if (req.destroyed) onCut();
    else req.on('data', onData).on('end', onEnd).on('error', onCut).on('close', onCut);
  });
}

export function hasBody(req: Request): boolean {
  const { 'content-length': length, 'transfer-encoding': coding } = req.headers;
  return coding !== undefined || (length !== undefined && Number(length) > 0);
}

/** RFC 9110 §12.5.3: the 415 for a content coding says which codings are supported. */
function requireIdentity(req: Request, res: Response): void {
  const coding = req.get('content-encoding')?.trim().toLowerCase();
  if (coding === undefined || coding === '' || coding === 'identity') return;
  throw refuseCoding(res, coding, 'identity');
}

/** @returns the 415, after it has set the header that names the codings which are supported. */
export function refuseCoding(res: Response, coding: string, accepted: string): IngestError {
  res.set('Accept-Encoding', accepted);
  const instead =
    accepted === 'identity'
      ? 'send it without a Content-Encoding'
      : `send it with one of ${accepted}, or without a Content-Encoding`;
  return new IngestError(
    'unsupported_media_type',
    `The body has the Content-Encoding ${JSON.stringify(coding.slice(0, 80))}; ${instead}.`,
  );
}

/**
 * Media types are compared without regard to case (RFC 9110 §8.3.1). Where a `charset` is allowed, it must be
 * UTF-8.
 */
export function requireMediaType(req: Request, wanted: string, mayHave?: 'charset'): void {
  const given = req.get('content-type');
  const type = given === undefined ? undefined : parseMediaType(given);
  const charset = mayHave === undefined ? null : (type?.params.get('charset') ?? null);
  if (type?.essence === wanted && (charset === null || /^utf-?8$/i.test(charset))) return;
  throw new IngestError(
    'unsupported_media_type',
    `The body must have the Content-Type ${wanted}; it has ${given === undefined ? 'none' : JSON.stringify(given.slice(0, 80))}.`,
  );
}

function parseMediaType(text: string): MIMEType | undefined {
  try {
    return new MIMEType(text);
  } catch {
    return undefined;
  }
}

/** Answers `Expect: 100-continue`, now that the headers give no reason to refuse the body. */
export function letBodyCome(req: Request, res: Response): void {
  if (req.headers.expect === undefined || res.locals.hasLetBodyCome === true) return;
  res.locals.hasLetBodyCome = true;
  if (req.httpVersion !== '1.1') return;
  res.removeHeader('Connection'); // `requireGoodFraming` set it to `close`
  res.writeContinue();
}

/**
 * Limits of the memory for bodies that are being received, and for what is made of them: all requests, and
 * one token.
 */
const SHARED_BYTES = 96 * 1024 * 1024;
const TOKEN_BYTES = 88 * 1024 * 1024;
/**
 * The first bytes of a body are not charged, so that a small request succeeds also when large ones use all
 * the memory. The limit of connections bounds them.
 */
const FREE_BYTES = 64 * 1024;

const charged = new Map<number | undefined, number>();
let chargedBytes = 0;

/**
 * Counts memory that the request holds until it is answered. Never waits: a request that is over the limit
 * gets an error with the time to try again.
 */
export function chargeMemory(res: Response, bytes: number): void {
  const tokenId: number | undefined = res.locals.principal?.tokenId;
  const ofToken = charged.get(tokenId) ?? 0;
  if (ofToken + bytes > TOKEN_BYTES) {
    throw new IngestError(
      'rate_limited',
      'The unanswered requests of this token use all the memory that one token may use; send large manifests one after the other.',
      { retryAfterSeconds: 5 },
    );
  }
  if (chargedBytes + bytes > SHARED_BYTES) {
    throw new IngestError(
      'overloaded',
      'Other large requests use all the memory for request bodies; try again in 5 s.',
      { retryAfterSeconds: 5 },
    );
  }
  if (res.locals.chargedBytes === undefined) {
    res.once('close', () => {
      chargedBytes -= res.locals.chargedBytes;
      const left = (charged.get(tokenId) ?? 0) - res.locals.chargedBytes;
      if (left === 0) charged.delete(tokenId);
      else charged.set(tokenId, left);
    });
  }
  res.locals.chargedBytes = (res.locals.chargedBytes ?? 0) + bytes;
  charged.set(tokenId, ofToken + bytes);
  chargedBytes += bytes;
}

/**
 * Answers JSON with an ETag, or 304 when the caller has this content already (RFC 9110 §13.1.2). Caches must
 * revalidate.
 */
export function sendJson(req: Request, res: Response, body: unknown): void {
  const text = JSON.stringify(body);
  const etag = `W/"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"`;
  const known = (req.get('if-none-match') ?? '').split(',').map((tag) => tag.trim());
  res.set('ETag', etag).set('Cache-Control', 'private, no-cache');
  if (known.includes(etag)) res.status(304).end();
  else res.type('application/json').send(text);
}

/** Deeper than any body needs: `source` of a manifest may have 32 levels. */
const MOST_LEVELS = 40;
const [QUOTE, BACKSLASH] = [0x22, 0x5c];
export const [COMMA, OPEN_ARRAY] = [0x2c, 0x5b];
const [CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5d, 0x7b, 0x7d];

/**
 * Limits the depth and the number of values of JSON while its bytes arrive, before anything is built from
 * them. It does not validate: `JSON.parse` does.
 */
export class JsonShape {
  readonly #mostValues: number;
  #values = 1;
  #isInString = false;
  #isEscaped = false;
  depth = 0;

  constructor(mostValues: number) {
    this.#mostValues = mostValues;
  }

  /**
   * Reads from the byte at `from` to the next bracket or comma outside of strings that is not deeper than
   * `level`, and sets `depth` to the depth after it. Without a `level` it reads the whole chunk.
   *
   * @returns the index of that byte, or the length of the chunk when there is none.
   */
  next(chunk: Uint8Array, from = 0, level = Number.NEGATIVE_INFINITY): number {
    for (let at = from; at < chunk.length; at += 1) {
      const byte = chunk[at];
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (byte === BACKSLASH) this.#isEscaped = true;
        else if (byte === QUOTE) this.#isInString = false;
      } else if (byte === QUOTE) this.#isInString = true;
      else if (byte === COMMA) {
        this.#count();
        if (this.depth <= level) return at;
      } else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) {
        this.#count();
        this.depth += 1;
        if (this.depth > MOST_LEVELS) throw invalid(`It is nested deeper than ${MOST_LEVELS} levels`);
        if (this.depth <= level) return at;
      } else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) {
        this.depth -= 1;
        if (this.depth < level) return at;
      }
    }
    return chunk.length;
  }

  /** Each value but the first follows a comma, or the bracket of an array or object. */
  #count(): void {
    this.#values += 1;
    if (this.#values > this.#mostValues) throw invalid(`It has more than ${this.#mostValues} values`);
  }
}

/** Pieces of a text in one buffer that doubles when it is full: a body may arrive in pieces of one byte. */
export class GrowingBuffer {
  readonly #mostBytes: number;
  readonly #tooMany: string;
  #buffer = Buffer.alloc(0);
  bytes = 0;

  constructor(mostBytes: number, tooMany: string) {
    this.#mostBytes = mostBytes;
    this.#tooMany = tooMany;
  }

  add(piece: Buffer): void {
    const bytes = this.bytes + piece.length;
    if (bytes > this.#mostBytes) throw invalid(this.#tooMany);
    if (bytes > this.#buffer.length) {
      const larger = Buffer.alloc(Math.min(this.#mostBytes, Math.max(bytes, 2 * this.#buffer.length, 1024)));
      this.#buffer.copy(larger, 0, 0, this.bytes);
      this.#buffer = larger;
    }
    piece.copy(this.#buffer, this.bytes);
    this.bytes = bytes;
  }

  /** All pieces, valid until the next `add`. The buffer is empty afterwards. */
  take(): Buffer {
    const taken = this.#buffer.subarray(0, this.bytes);
    this.bytes = 0;
    return taken;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * @throws a 400 for bytes that are not UTF-8 (a replacement character would change the text), or not JSON.
 */
export function parseJson(bytes: Uint8Array, before = '', after = ''): unknown {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch (error) {
    throw invalid('It is not UTF-8', error);
  }
  try {
    return JSON.parse(before + text + after);
  } catch (error) {
    throw invalid(`It is not JSON: ${(error as Error).message.slice(0, 200)}`, error);
  }
}

function invalid(what: string, cause?: unknown): IngestError {
  return new IngestError('invalid_request', `The request body is not valid. ${what}.`, { cause });
}
