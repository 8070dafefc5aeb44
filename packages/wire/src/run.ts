/**
 * A run in the JSON answers of the service: the one definition of it for service, uploader, page and OpenAPI
 * document. Instants are RFC 3339 in UTC. `null` means that there is no such value; what it means is said
 * where it is not obvious.
 */
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

const loadPhase = z.enum(['copying', 'building_key', 'attaching', 'publishing']);
const loadOutcome = z.enum(['published', 'superseded', 'held', 'failed', 'retry', 'lost']);
const action = z.enum(['upload', 'withdraw', 'retry', 'publish']);

const revisionError = z.object({
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
  excerpt: z
    .string()
    .describe('the first 200 characters of the line at most; control characters are escaped'),
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
    stalled: z.boolean().describe('not complete, and no bytes for two minutes'),
    uploadUrl: z.string().startsWith('/').describe('a path, so that a token is never sent to another host'),
  })
  .meta({ id: 'RunFile' });

const profile = z.object({
  rows: count,
  min: z
    .number()
    .nullable()
    .describe('of the scores; null, as the next three, when it is not a finite number'),
  max: z.number().nullable(),
  mean: z.number().nullable(),
  stddev: z.number().nullable(),
  deciles: z
    .array(z.number())
    .describe('nine; each nearer to zero than the true decile, by at most 0.1 % of its value'),
  bytes,
  seconds: z.number(),
});

const gateResult = z.object({
  gate: z.string(),
  expected: z.unknown(),
  found: z.unknown(),
  broken: z.boolean(),
});

/** What the list of runs and the answer about one run have in common. */
const runBasics = {
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
    .describe('the run that `scores.<model>` shows to readers now; null: none yet'),
  publishedRevision: z
    .int()
    .nullable()
    .describe('the revision of this run that readers see; null: they see another run, or none'),
  pushedBy: z.string().describe('the name of the token'),
  rows: count.nullable(),
  files: z.object({ total: count, received: count, stalled: count.describe('no bytes for two minutes') }),
  bytes: z.object({ total: bytes, received: bytes.describe('synced to the disk') }),
  lines: count.nullable().describe('as declared; null: a plain tus upload declares none'),
  lastProgressAt: instant
    .nullable()
    .describe('when the last bytes were recorded; null: all have arrived (since `queuedAt`)'),
};

export const runSummary = z
  .object({
    ...runBasics,
    load: z
      .object({
        attempt: z.int().min(1),
        worker: z.string(),
        phase: loadPhase.nullable().describe('null: the attempt has ended'),
        bytes,
        rows: count,
        startedAt: instant,
        nextTryAt: instant.nullable(),
        lastError: z.string().nullable(),
      })
      .nullable(),
    error: revisionError.nullable(),
    brokenGates: z.array(gateResult).describe('the broken gates of a held run'),
    sentFrom: z
      .object({ host: z.string().nullable(), dag: z.string().nullable() })
      .describe(
        'what the sender declared about itself: its host and the DAG of Airflow, cut to 100 characters',
      ),
    profile: profile.nullish().describe('only in lists with `profile=true`; null: the run is not loaded'),
    mayDo: z.array(action),
  })
  .meta({ id: 'RunSummary' });

export const filePage = z
  .object({
    revision: z.int().min(1).describe('the same on all pages of a list'),
    files: z.array(runFile).describe('by name'),
    nextCursor: z.string().nullable(),
  })
  .meta({ id: 'FilePage' });

export const runList = z
  .object({ runs: z.array(runSummary), nextCursor: z.string().nullable() })
  .meta({ id: 'RunList' });

export const run = z
  .object({
    ...runBasics,
    source: z.record(z.string(), z.unknown()).nullable().describe('what the sender declared about itself'),
    progress: z
      .object({
        step: z.enum(['receiving', 'copying', 'building_key', 'attaching', 'publishing']),
        doneBytes: bytes,
        totalBytes: bytes,
        bytesPerSecond: z.number().nullable(),
        etaSeconds: z
          .number()
          .nullable()
          .describe('until the end of this step; null: not enough was measured'),
        loadEtaSeconds: z
          .number()
          .nullable()
          .describe('until readers see the run; null: not enough was measured'),
      })
      .nullish()
      .describe('null: nothing is in progress. Only `GET` of the run has it'),
    load: z
      .object({
        attempt: z.int().min(1),
        worker: z.string(),
        phase: loadPhase.nullable(),
        keyBuild: z
          .object({
            step: z.enum(['scanning', 'sorting', 'writing']),
            done: count.describe('blocks of the table while scanning, rows while writing'),
            total: count.describe('0: PostgreSQL does not report it yet'),
            stepSeconds: z.number(),
            seconds: z.number(),
          })
          .nullable()
          .describe('the progress of building the primary key, when it was read last'),
        bytes,
        rows: count,
        startedAt: instant,
        updatedAt: instant,
        finishedAt: instant.nullable(),
        outcome: loadOutcome.nullable(),
        nextTryAt: instant.nullable(),
        lastError: z.string().nullable(),
      })
      .nullable(),
    error: revisionError.nullable(),
    rejects: z.object({
      total: count,
      byCode: z.record(z.string(), count),
      first: z.array(rejectedLine),
    }),
    gates: z.array(gateResult).nullish(),
    profile: profile.nullish(),
    previous: z
      .object({ run: z.string(), revision: z.int(), profile: profile.nullable() })
      .nullish()
      .describe('the run that was published before, for comparison'),
    mayDo: z.array(action),
    missing: z
      .object({
        files: z.array(runFile).max(100),
        nextCursor: z
          .string()
          .nullable()
          .describe('for `GET …/files?state=receiving`; null: this list is complete'),
      })
      .describe('while the run is receiving: the first files, by name, that are not complete'),
  })
  .meta({ id: 'Run' });

export const history = z
  .object({
    revisions: z
      .array(
        z.object({
          revision: z.int(),
          state: RUN_STATE,
          declaredAt: instant,
          queuedAt: instant.nullable(),
          loadedAt: instant.nullable(),
          publishedAt: instant.nullable(),
          pushedBy: z.string(),
          rows: count.nullable(),
          error: revisionError.nullable(),
        }),
      )
      .max(50)
      .describe('the newest 50'),
    attempts: z
      .array(
        z.object({
          revision: z.int(),
          attempt: z.int(),
          worker: z.string(),
          phase: loadPhase,
          outcome: loadOutcome.nullable(),
          error: z.string().nullable(),
          bytes,
          rows: count,
          nextTryAt: instant.nullable(),
          phaseSeconds: z.record(z.string(), z.number()).nullable(),
          startedAt: instant,
          finishedAt: instant.nullable(),
        }),
      )
      .max(50)
      .describe('the newest 50'),
    events: z
      .array(
        z.object({
          at: instant,
          actor: z.string(),
          action: z.string(),
          revision: z.int().nullable(),
          detail: z
            .record(z.string(), z.unknown())
            .nullable()
            .describe('null: there is none, or it is longer than 1,000 characters'),
        }),
      )
      .max(100)
      .describe('the newest 100'),
    publications: z
      .array(
        z.object({
          revision: z.int(),
          at: instant,
          by: z.string(),
          reason: z.string().nullable(),
          publicationId: z.int(),
        }),
      )
      .max(50)
      .describe('the newest 50'),
    throughput: z
      .array(
        z.object({
          at: instant,
          receivedBytes: bytes,
          loadedBytes: bytes,
          loadedRows: count,
        }),
      )
      .max(300)
      .describe('what this process measured of the newest revision, at most 300 samples'),
  })
  .meta({ id: 'RunHistory' });

export type RunState = z.infer<typeof RUN_STATE>;
export type RunAction = z.infer<typeof action>;
export type RunFile = z.infer<typeof runFile>;
export type RunSummary = z.infer<typeof runSummary>;
export type Run = z.infer<typeof run>;
export type RunList = z.infer<typeof runList>;
export type FilePage = z.infer<typeof filePage>;
export type RunHistory = z.infer<typeof history>;
export type Profile = z.infer<typeof profile>;
