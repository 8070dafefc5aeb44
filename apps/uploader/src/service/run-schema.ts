import * as z from 'zod';

const bytes = z.number().nonnegative();

export const RUN_STATES = [
  'receiving',
  'queued',
  'loading',
  'published',
  'superseded',
  'held',
  'failed',
  'cancelled',
] as const;
const runState = z.enum(RUN_STATES);

const runFileSchema = z.object({
  name: z.string(),
  bytes,
  sha256: z.string().nullish(),
  state: z.enum(['receiving', 'received']),
  offset: bytes,
  // Path-absolute, so that a token never travels to another host.
  uploadUrl: z.string().startsWith('/'),
});

/** Files of a run by name; `nextCursor` asks for those after them, null when there are none. */
const filesSchema = z.object({ files: z.array(runFileSchema), nextCursor: z.string().nullable() });
export const filePageSchema = filesSchema.extend({ revision: z.int() });

/** What a run and its summary both say of its files. */
const counts = {
  files: z.object({ total: z.int(), received: z.int() }),
  bytes: z.object({ total: bytes, received: bytes }),
};

/** What `scores.<model>` shows readers now; null before the first publication. */
const shownSchema = z.object({ run: z.string(), revision: z.int(), as_of: z.string() }).nullable();

/** A run as the service tells it; only what the uploader acts on or shows, so that the service may add. */
export const runSchema = z.object({
  model: z.string(),
  run: z.string(),
  revision: z.int(),
  state: runState,
  rows: z.number().nullish(),
  as_of: z.string(),
  shown: shownSchema,
  ...counts,
  /** The first files that need bytes. */
  missing: filesSchema,
  load: z
    .object({
      attempt: z.number().nullish(),
      phase: z.string().nullish(),
      /** `total` is 0 while nothing can be counted. */
      keyBuild: z.object({ step: z.string(), done: z.number(), total: z.number() }).nullish(),
      bytes: z.number().nullish(),
      rows: z.number().nullish(),
      nextTryAt: z.string().nullish(),
      lastError: z.string().nullish(),
    })
    .nullish(),
  progress: z
    .object({
      bytesPerSecond: z.number().nullish(),
      /** Of what goes on now, and of the whole load. */
      etaSeconds: z.number().nullish(),
      loadEtaSeconds: z.number().nullish(),
    })
    .nullish(),
  error: z
    .object({
      code: z.string(),
      detail: z.string(),
      file: z.string().nullish(),
      line: z.number().nullish(),
      byte_offset: z.number().nullish(),
    })
    .nullish(),
  rejects: z
    .object({
      total: z.number(),
      byCode: z.record(z.string(), z.number()).nullish(),
      first: z.array(
        z.object({
          file: z.string(),
          line: z.number(),
          byte_offset: z.number(),
          code: z.string(),
          detail: z.string().nullish(),
          excerpt: z.string().nullish(),
        }),
      ),
    })
    .nullish(),
  gates: z
    .array(z.object({ gate: z.string(), expected: z.unknown(), found: z.unknown(), broken: z.boolean() }))
    .nullish(),
  pushedBy: z.string().nullish(),
});

/** A run in a list. */
export const runSummarySchema = z.object({
  model: z.string(),
  run: z.string(),
  revision: z.int(),
  state: runState,
  rows: z.number().nullish(),
  as_of: z.string(),
  shown: shownSchema,
  declaredAt: z.string(),
  pushedBy: z.string().nullish(),
  ...counts,
  load: z.object({ phase: z.string().nullish(), bytes: z.number().nullish() }).nullish(),
  error: z.object({ detail: z.string() }).nullish(),
});

export const runListSchema = z.object({ runs: z.array(runSummarySchema), nextCursor: z.string().nullish() });
export const modelSchema = z.object({
  model: z.string(),
  current: z.object({ run: z.string(), revision: z.int(), rows: z.number().nullish() }).nullable(),
});

export type RunFile = z.infer<typeof runFileSchema>;
export type FilePage = z.infer<typeof filePageSchema>;
export type Run = z.infer<typeof runSchema>;
export type Shown = NonNullable<z.infer<typeof shownSchema>>;
export type RunSummary = z.infer<typeof runSummarySchema>;
export type Model = z.infer<typeof modelSchema>;
export type RunState = Run['state'];
