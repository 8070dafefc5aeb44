import { MIMEType } from 'node:util';
import type { Request, Response } from 'express';
import { IngestError } from '../errors.ts';
import { Gathered, JsonShape, parseJson } from './json-text.ts';

/** Of every route but the manifest's: a contract, a reason, a sign-in. */
const SMALL_BYTES = 16 * 1024;
const SMALL_VALUES = 200;
/** A body that has not come by then is given no more time; a manifest of 32 MiB has it at 1 Mbit/s. */
const RECEIVE_WITHIN_MS = 300_000;

/** Bytes and objects of bodies under way: of all requests, and of the requests of one token. */
const SHARED_BYTES = 96 * 1024 * 1024;
const TOKEN_BYTES = 88 * 1024 * 1024;
/** Costs nothing, so that a small request passes also when large ones have taken all: connections are counted. */
const FREE_BYTES = 64 * 1024;

const charged = new Map<number | undefined, number>();
let chargedBytes = 0;

/**
 * The body of a JSON route that takes a small one. Called when the request's headers, its token included, have been
 * found good: no byte of a body is looked at before.
 *
 * @returns undefined when there is none.
 */
export async function readJson(req: Request, res: Response): Promise<unknown> {
  if (!hasBody(req)) return undefined;
  const shape = new JsonShape(SMALL_VALUES);
  const gathered = new Gathered(SMALL_BYTES, '');
  await receiveJson(req, res, {
    mostBytes: SMALL_BYTES,
    onChunk: (chunk) => {
      shape.next(chunk);
      gathered.add(chunk);
    },
  });
  return parseJson(gathered.take());
}

interface JsonReceiver {
  readonly mostBytes: number;
  onChunk(chunk: Buffer): void;
}

/** Brings the body in, chunk by chunk: it is never there as a whole. Rejects with what `onChunk` throws, at once. */
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
      `The request body has more than ${mostBytes} bytes, which is the most here.`,
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
    const onCut = () => settle(new IngestError('invalid_request', 'The connection ended before the body.'));
    const timer = setTimeout(
      () => settle(new IngestError('request_timeout', 'The body of the request did not come in time.')),
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

/**
 * Counts memory that the request holds until it has been answered. Never waits: whoever asks when all is taken hears
 * when to ask again.
 */
export function chargeMemory(res: Response, bytes: number): void {
  const tokenId: number | undefined = res.locals.principal?.tokenId;
  const ofToken = charged.get(tokenId) ?? 0;
  if (ofToken + bytes > TOKEN_BYTES) {
    throw new IngestError(
      'rate_limited',
      'Other requests of this token hold as much memory as one token may have; send large manifests one after the other.',
      { retryAfterSeconds: 5 },
    );
  }
  if (chargedBytes + bytes > SHARED_BYTES) {
    throw new IngestError('overloaded', 'The service is busy with other large requests; try again in 5 s.', {
      retryAfterSeconds: 5,
    });
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

export function hasBody(req: Request): boolean {
  const { 'content-length': length, 'transfer-encoding': coding } = req.headers;
  return coding !== undefined || (length !== undefined && Number(length) > 0);
}

/** RFC 9110 §12.5.3: what is coded in a way that is not taken is a 415 that says which ways are. */
export function requireIdentity(req: Request, res: Response): void {
  const coding = req.get('content-encoding')?.trim().toLowerCase();
  if (coding === undefined || coding === '' || coding === 'identity') return;
  res.set('Accept-Encoding', 'identity');
  throw new IngestError(
    'unsupported_media_type',
    `The body has the Content-Encoding ${JSON.stringify(coding.slice(0, 80))}; send it as it is, without one.`,
  );
}

/** Media types are compared without regard to case (RFC 9110 §8.3.1). `charset`, where it may be given, is UTF-8. */
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

/** Answers `Expect: 100-continue`, now that nothing in the headers speaks against the body. */
export function letBodyCome(req: Request, res: Response): void {
  if (req.headers.expect === undefined || res.locals.hasLetBodyCome === true) return;
  res.locals.hasLetBodyCome = true;
  if (req.httpVersion !== '1.1') return;
  res.removeHeader('Connection'); // `framing.ts` would have it closed
  res.writeContinue();
}

const DEEPEST = 32;

/**
 * Whether parsed JSON can be kept as jsonb: PostgreSQL takes no NUL and no lone surrogate, and what is nested
 * without end would exhaust the stack of whoever walks it after us.
 */
export function isStorableJson(value: unknown, depth = 0): boolean {
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\0');
  if (typeof value !== 'object' || value === null) return true;
  if (depth >= DEEPEST) return false;
  if (Array.isArray(value)) return value.every((item) => isStorableJson(item, depth + 1));
  return Object.entries(value).every(([key, item]) => isStorableJson(key) && isStorableJson(item, depth + 1));
}
