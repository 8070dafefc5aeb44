import type { Request, Response } from 'express';
import { isModelName, MODEL_NAME_RULE, type ModelName } from 'wire';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { chargeMemory, isStorableJson, receiveJson } from './json-body.ts';
import { LongArray } from './json-text.ts';

const PRINTABLE_KEY = /^[^\p{C}]{1,200}$/u;
/** One name, no path: nothing that climbs, nothing that cannot be printed. */
const FILE_NAME = /^(?!\.{1,2}$)[^/\\\p{C}]{1,255}$/u;

const MOST_FILES = 100_000;

export const runKey = z.string().regex(PRINTABLE_KEY, 'must be 1 to 200 printable characters');
export const fileName = z
  .string()
  .regex(FILE_NAME, 'must be a file name of 1 to 255 printable characters, without slashes');

/** PostgreSQL's `integer`: revisions, and the cursors that are one. */
const MOST_INTEGER = 2 ** 31 - 1;
export const revisionNumber = z.int().min(1).max(MOST_INTEGER);
/** As a query has it. */
export const revisionText = z.coerce.number().int().min(1).max(MOST_INTEGER);

/** How many a page of a list may have. */
export const pageLimit = z.coerce.number().int().min(1).max(1000).default(100);

/** `openRevision` refuses an unlikely date, given or in the run key, by the database's clock. */
const asOf = z.iso.datetime({ offset: true });

const manifestFile = z.strictObject({
  name: fileName,
  bytes: z.int().min(0),
  sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hex digits'),
  lines: z.int().min(0),
});

const manifestHead = z.strictObject({
  as_of: asOf.optional(),
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
/** An entry of a file has four values and is one; all else has 1,000. */
const MANIFEST_VALUES = 5 * MOST_FILES + 1_000;
/** What a file costs in memory from its entry to its rows, beside the text. */
const BYTES_PER_FILE = 512;

/**
 * Reads a manifest as it arrives: each slice of its files is checked, and what is wrong answered, before the next one is
 * parsed. So neither a hostile manifest nor an honest one of 100,000 files holds other requests up.
 *
 * @throws a 400 that names the first faults and where they are.
 */
export async function readManifest(req: Request, res: Response): Promise<z.infer<typeof manifestRequest>> {
  const files: z.infer<typeof manifestFile>[] = [];
  const names = new Set<string>();
  const faults: string[] = [];
  const fail = (more: readonly string[] = []) => invalid('The manifest', [...faults, ...more]);
  let totalBytes = 0;
  let totalLines = 0;
  const manifest = new LongArray(MANIFEST_VALUES, (entries) => {
    if (files.length + entries.length > MOST_FILES) throw fail([`files: must be at most ${MOST_FILES}`]);
    chargeMemory(res, entries.length * BYTES_PER_FILE);
    for (const entry of entries) {
      const result = manifestFile.safeParse(entry);
      if (!result.success) faults.push(...faultsOf(result.error, ['files', files.length]));
      else if (names.has(result.data.name))
        faults.push(`files.${files.length}.name: must not name a file twice`);
      else {
        names.add(result.data.name);
        totalBytes += result.data.bytes;
        totalLines += result.data.lines;
      }
      if (faults.length >= MOST_FAULTS) throw fail();
      files.push(result.data ?? NO_FILE);
    }
  });
  await receiveJson(req, res, { mostBytes: MANIFEST_BYTES, onChunk: (chunk) => manifest.read(chunk) });
  const rest = manifest.end();
  const { files: none, ...head } =
    typeof rest === 'object' && rest !== null ? { files: null, ...rest } : { files: rest };
  if (!Array.isArray(none) || files.length === 0)
    faults.push('files: must be an array with at least one file');
  if (totalBytes > Number.MAX_SAFE_INTEGER || totalLines > Number.MAX_SAFE_INTEGER)
    faults.push('files: must have less bytes and lines in all');
  const parsed = manifestHead.safeParse(head);
  if (!parsed.success || faults.length > 0) throw fail(parsed.success ? [] : faultsOf(parsed.error));
  return { files, ...parsed.data };
}

/** In the place of a file that is not valid, so that the ones after it keep their numbers. */
const NO_FILE = { name: '', bytes: 0, sha256: '', lines: 0 };
const MOST_FAULTS = 10;

/** @throws a 400 that names every fault and where it is. */
export function parseRequest<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw invalid(what, faultsOf(result.error));
}

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

/** A name that cannot be a model's is answered like a model that is not there. */
export function parseModelParam(text: string): ModelName {
  if (isModelName(text)) return text;
  throw new IngestError(
    'invalid_request',
    `${JSON.stringify(text.slice(0, 80))} is not a model name: it must be ${MODEL_NAME_RULE}.`,
  );
}
