import { isModelName, MODEL_NAME_RULE, type ModelName } from 'db-schema';
import { z } from 'zod';
import { IngestError } from '../errors.ts';
import { isStorableJson } from './storable-json.ts';

const PRINTABLE_KEY = /^[^\p{C}]{1,200}$/u;
/** One name, no path: nothing that climbs, nothing that cannot be printed. */
const FILE_NAME = /^(?!\.{1,2}$)[^/\\\p{C}]{1,255}$/u;

const MAX_FILES = 100_000;

export const runKey = z.string().regex(PRINTABLE_KEY, 'must be 1 to 200 printable characters');
export const fileName = z
  .string()
  .regex(FILE_NAME, 'must be a file name of 1 to 255 printable characters, without slashes');

/** The body of `PUT /v1/models/{model}/runs/{run}`. */
export const manifestRequest = z.strictObject({
  files: z
    .array(
      z.strictObject({
        name: fileName,
        bytes: z.int().min(0),
        sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hex digits'),
        lines: z.int().min(0),
      }),
    )
    .min(1, 'must name at least one file')
    .max(MAX_FILES)
    .refine(
      (files) => new Set(files.map((file) => file.name)).size === files.length,
      'must not name a file twice',
    ),
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

/** @throws a 400 that names every fault and where it is. */
export function parseRequest<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const faults = result.error.issues
    .slice(0, 10)
    .map((issue) => `${issue.path.length > 0 ? `${issue.path.join('.')}: ` : ''}${issue.message}`);
  throw new IngestError('invalid_request', `${what} is not valid. ${faults.join('; ')}.`);
}

/** A name that cannot be a model's is answered like a model that is not there. */
export function parseModelParam(text: string): ModelName {
  if (isModelName(text)) return text;
  throw new IngestError(
    'invalid_request',
    `${JSON.stringify(text.slice(0, 80))} is not a model name: it must be ${MODEL_NAME_RULE}.`,
  );
}
