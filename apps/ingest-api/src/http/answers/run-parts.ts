import { z } from 'zod';

export const instant = z.iso.datetime();
export const count = z.int().min(0);
export const bytes = z.int().min(0);

export const RUN_STATE = z.enum([
  'receiving',
  'queued',
  'loading',
  'published',
  'superseded',
  'held',
  'failed',
  'cancelled',
]);

export const loadPhase = z.enum(['copying', 'building_key', 'attaching', 'publishing']);
export const loadOutcome = z.enum(['published', 'superseded', 'held', 'failed', 'retry', 'lost']);
export const action = z.enum(['upload', 'withdraw', 'retry', 'publish']);

export const revisionError = z.object({
  code: z.string(),
  detail: z.string(),
  file: z.string().optional(),
  line: z.int().optional(),
  byte_offset: z.int().optional(),
});

export const rejectedLine = z.object({
  file: z.string(),
  line: z.int().min(1),
  byte_offset: z.int().min(0),
  code: z.string(),
  detail: z.string(),
  excerpt: z.string().describe('at most 200 characters of the line, control characters shown'),
});

/** A file of a run. */
export const runFile = z
  .object({
    name: z.string(),
    bytes,
    sha256: z.string().nullable(),
    lines: count.nullable(),
    state: z.enum(['receiving', 'received']),
    offset: bytes,
    lastProgressAt: instant,
    stalled: z.boolean().describe('not complete, and no byte for two minutes'),
    uploadUrl: z.string(),
  })
  .meta({ id: 'RunFile' });

export const profile = z.object({
  rows: count,
  min: z.number().nullable(),
  max: z.number().nullable(),
  mean: z.number().nullable(),
  stddev: z.number().nullable(),
  deciles: z.array(z.number()),
  bytes,
  seconds: z.number(),
});

export const gateResult = z.object({
  gate: z.string(),
  expected: z.unknown(),
  found: z.unknown(),
  broken: z.boolean(),
});

/** A run, in the list and by itself. */
export const runBasics = {
  model: z.string(),
  run: z.string(),
  revision: z.int().min(1),
  state: RUN_STATE,
  as_of: instant,
  declaredAt: instant,
  queuedAt: instant.nullable(),
  loadedAt: instant.nullable(),
  publishedAt: instant.nullable(),
  as_of_from: z.enum(['given', 'run_key', 'declared']),
  shown: z
    .object({ run: z.string(), revision: z.int(), as_of: instant, publishedAt: instant })
    .nullable()
    .describe('what `scores.<model>` shows readers now; null: nothing yet'),
  publishedRevision: z
    .int()
    .nullable()
    .describe('the revision of this run that readers see; null: they see another'),
  pushedBy: z.string().describe('the name of the token'),
  rows: count.nullable(),
  files: z.object({ total: count, received: count, stalled: count.describe('no byte for two minutes') }),
  bytes: z.object({ total: bytes, received: bytes.describe('synced to the disk') }),
  lines: count.nullable().describe('as declared; null for a plain tus upload, which declares none'),
  lastProgressAt: instant
    .nullable()
    .describe('when the last bytes were recorded; null once all are there (`queuedAt` says since when)'),
};
