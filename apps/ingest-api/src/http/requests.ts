import type { Request, RequestHandler, Response } from 'express';
import { FILE_NAME, FILE_NAME_RULE, type ModelName, parseModelName, RUN_KEY, RUN_KEY_RULE } from 'wire';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import {
  COMMA,
  chargeMemory,
  GrowingBuffer,
  JsonShape,
  OPEN_ARRAY,
  parseJson,
  receiveJson,
} from './json-body.ts';

export const runKey = z.string().regex(RUN_KEY, `must be ${RUN_KEY_RULE}`);
export const fileName = z.string().regex(FILE_NAME, `must be ${FILE_NAME_RULE}`);

/** Why somebody publishes, withdraws or retries; the audit log keeps it. */
export const reason = z
  .string()
  .trim()
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]{1,500}$/u, 'must be 1 to 500 printable characters on one line');

/** The largest `integer` of PostgreSQL, for revisions and the cursors made of them. */
const MOST_INTEGER = 2 ** 31 - 1;
/** In a JSON body. */
export const revisionNumber = z.int().min(1).max(MOST_INTEGER);
/** A number in a query: decimal digits. (z.coerce also takes "0x10", "1e2" and, in a body, true.) */
export const inQuery = <S extends z.ZodType>(schema: S) =>
  z.preprocess((text, context) => {
    if (typeof text !== 'string') return text;
    if (/^-?\d{1,15}$/.test(text)) return Number(text);
    context.addIssue({ code: 'custom', message: 'it must be a whole number' });
    return z.NEVER;
  }, schema);
export const revisionText = inQuery(revisionNumber);

/** How many elements a page of a list may have. */
export const pageLimit = inQuery(z.int().min(1).max(1000)).default(100);

const noParameters = z.strictObject({});

/** Of a route without parameters: one that is given was meant to change the answer, and would not. */
export const noQuery: RequestHandler = (req, _res, next) => {
  parseRequest(noParameters, req.query, 'The query');
  next();
};

export const CURSOR_RULE = 'must be the `nextCursor` of an earlier answer';

/** @throws a 400 that lists the first faults, each with its place. */
export function parseRequest<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw invalid(what, faultsOf(result.error));
}

/** @throws a 400 that states the rule. */
export function parseModelParam(text: string): ModelName {
  try {
    return parseModelName(text);
  } catch (error) {
    throw new IngestError('invalid_request', (error as Error).message, { cause: error });
  }
}

const MOST_FILES = 100_000;

const manifestFile = z.strictObject({
  name: fileName,
  bytes: z.int().min(0),
  sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hex digits'),
  lines: z.int().min(0),
});

/** `openRevision` checks the date, given here or in the run key, against the database's clock. */
const manifestHead = z.strictObject({
  as_of: z.iso.datetime({ offset: true }).optional(),
  source: z
    .record(z.string().max(100), z.unknown())
    .refine((source) => isStorableJson(source), {
      message: 'must be JSON of at most 32 levels, without NUL or lone surrogates',
      abort: true,
    })
    .refine((source) => JSON.stringify(source).length <= 16_384, 'must be at most 16 KiB as JSON')
    .optional(),
});

/** The body of `PUT /v1/models/{model}/runs/{run}`. */
export const manifestRequest = manifestHead.extend({
  files: z.array(manifestFile).min(1).max(MOST_FILES),
});

const MANIFEST_BYTES = 32 * 1024 * 1024;
/** The entry of a file is an object with four values; the rest of a manifest may have 1,000 values. */
const MANIFEST_VALUES = 5 * MOST_FILES + 1_000;
/** Memory that a file takes from its entry to its rows, besides the text. */
const BYTES_PER_FILE = 512;
/** Replaces an invalid entry, so that later entries keep their indexes. */
const INVALID_FILE = { name: '', bytes: 0, sha256: '', lines: 0 };

/**
 * Reads a manifest while it arrives: each slice of its files is checked, and its faults are answered, before
 * the next slice is parsed. So neither a hostile manifest nor a correct one of 100,000 files delays other
 * requests.
 *
 * @throws a 400 that lists the first faults, each with its place.
 */
export async function readManifest(req: Request, res: Response): Promise<z.infer<typeof manifestRequest>> {
  const files: z.infer<typeof manifestFile>[] = [];
  const names = new Set<string>();
  const faults: string[] = [];
  const fail = (more: readonly string[] = []) => invalid('The manifest', [...faults, ...more]);
  let totalBytes = 0;
  let totalLines = 0;
  const manifest = new LongArray(MANIFEST_VALUES, (entries) => {
    if (files.length + entries.length > MOST_FILES)
      throw fail([`files: must have at most ${MOST_FILES} elements`]);
    chargeMemory(res, entries.length * BYTES_PER_FILE);
    for (const entry of entries) {
      const result = manifestFile.safeParse(entry);
      if (!result.success) faults.push(...faultsOf(result.error, ['files', files.length]));
      else if (names.has(result.data.name))
        faults.push(`files.${files.length}.name: must be unique; an earlier file has the same name`);
      else {
        names.add(result.data.name);
        totalBytes += result.data.bytes;
        totalLines += result.data.lines;
      }
      if (faults.length >= MOST_FAULTS) throw fail();
      files.push(result.data ?? INVALID_FILE);
    }
  });
  await receiveJson(req, res, { mostBytes: MANIFEST_BYTES, onChunk: (chunk) => manifest.read(chunk) });
  const rest = manifest.end();
  const { files: none, ...head } =
    typeof rest === 'object' && rest !== null ? { files: null, ...rest } : { files: rest };
  if (!Array.isArray(none) || files.length === 0)
    faults.push('files: must be an array with at least one file');
  if (totalBytes > Number.MAX_SAFE_INTEGER || totalLines > Number.MAX_SAFE_INTEGER)
    faults.push(`files: the sum of bytes, and that of lines, must be at most ${Number.MAX_SAFE_INTEGER}`);
  const parsed = manifestHead.safeParse(head);
  if (!parsed.success || faults.length > 0) throw fail(parsed.success ? [] : faultsOf(parsed.error));
  return { files, ...parsed.data };
}

/** The elements of an array are parsed in slices of at least this size, and of little more. */
const SLICE_BYTES = 32 * 1024;
/**
 * One element of the array: the entry of a file has less than 4 KiB, even with every character of its name
 * escaped.
 */
const MOST_ELEMENT_BYTES = 16 * 1024;
/** Everything but the array. */
const MOST_REST_BYTES = 256 * 1024;

/**
 * Parses the text of one object that has one long array, while the text arrives. The elements of the array go
 * to `each` in slices: neither the text nor the parsed array is ever in memory as a whole, and no step blocks
 * other requests for long. The rest is the object with an empty array.
 */
class LongArray {
  readonly #shape: JsonShape;
  readonly #each: (elements: readonly unknown[]) => void;
  readonly #rest = new GrowingBuffer(
    MOST_REST_BYTES,
    `It has more than ${MOST_REST_BYTES} bytes besides its files`,
  );
  readonly #slice = new GrowingBuffer(
    SLICE_BYTES + MOST_ELEMENT_BYTES,
    `An element of an array has more than ${MOST_ELEMENT_BYTES} bytes`,
  );
  #isInArray = false;
  #hadArray = false;
  #followsComma = false;

  constructor(mostValues: number, each: (elements: readonly unknown[]) => void) {
    this.#shape = new JsonShape(mostValues);
    this.#each = each;
  }

  read(chunk: Buffer): void {
    let from = 0;
    for (let at = this.#shape.next(chunk, 0, 2); at < chunk.length; at = this.#shape.next(chunk, at + 1, 2)) {
      const { depth } = this.#shape;
      const byte = chunk[at];
      if (!this.#isInArray) {
        if (byte !== OPEN_ARRAY || depth !== 2) continue;
        if (this.#hadArray)
          throw invalid('The request body', [
            'It has more than one array at its top level; only `files` may be one',
          ]);
        this.#rest.add(chunk.subarray(from, at + 1));
        from = at + 1;
        this.#isInArray = true;
        this.#hadArray = true;
      } else if (byte === COMMA) {
        if (this.#slice.bytes + at - from < SLICE_BYTES) continue;
        this.#slice.add(chunk.subarray(from, at));
        from = at + 1;
        this.#parseSlice(true);
      } else if (depth < 2) {
        this.#slice.add(chunk.subarray(from, at));
        from = at;
        this.#parseSlice(false);
        this.#isInArray = false;
      }
    }
    (this.#isInArray ? this.#slice : this.#rest).add(chunk.subarray(from));
  }

  /** @returns the object, with an empty array in place of the long one. */
  end(): unknown {
    if (this.#isInArray) throw invalid('The request body', ['It ends in the middle of an array']);
    return parseJson(this.#rest.take());
  }

  #parseSlice(endsWithComma: boolean): void {
    const elements = parseJson(this.#slice.take(), '[', ']') as unknown[];
    // `[1, 2,]` cut after its last comma gives `[1, 2]` and `[]`: each slice is JSON, the whole is not.
    if (elements.length === 0 && (endsWithComma || this.#followsComma))
      throw invalid('The request body', ['An array has a comma without an element next to it']);
    this.#followsComma = endsWithComma;
    this.#each(elements);
  }
}

const DEEPEST = 32;

/**
 * True for parsed JSON that can be stored as jsonb: PostgreSQL refuses NUL and lone surrogates, and endless
 * nesting would exhaust the stack of whatever reads it later.
 */
function isStorableJson(value: unknown, depth = 0): boolean {
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\0');
  if (typeof value !== 'object' || value === null) return true;
  if (depth >= DEEPEST) return false;
  if (Array.isArray(value)) return value.every((item) => isStorableJson(item, depth + 1));
  return Object.entries(value).every(([key, item]) => isStorableJson(key) && isStorableJson(item, depth + 1));
}

const MOST_FAULTS = 10;

function faultsOf({ issues }: z.ZodError, at: readonly PropertyKey[] = []): string[] {
  return issues.slice(0, MOST_FAULTS).map(({ path, message }) => {
    const where = [...at, ...path].map(String).join('.').slice(0, 200);
    return `${where === '' ? '' : `${where}: `}${message.slice(0, 500)}`;
  });
}

function invalid(what: string, faults: readonly string[]): IngestError {
  return new IngestError(
    'invalid_request',
    `${what} is not valid. ${faults.slice(0, MOST_FAULTS).join('; ')}.`,
  );
}
