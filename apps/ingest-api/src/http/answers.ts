import { z } from 'zod';

/**
 * What the service answers, as JSON: written once for the OpenAPI document, for the status page's types, and
 * for the tests that hold real answers against it. This file imports nothing else, as the page uses its types.
 */
const instant = z.iso.datetime();
const count = z.int().min(0);
const bytes = z.int().min(0);

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
  excerpt: z.string().describe('at most 200 characters of the line, control characters shown'),
});

export const runSummary = z
  .object({
    model: z.string(),
    run: z.string(),
    revision: z.int().min(1),
    state: RUN_STATE,
    as_of: instant,
    declaredAt: instant,
    queuedAt: instant.nullable(),
    loadedAt: instant.nullable(),
    publishedAt: instant.nullable(),
    publishedRevision: z
      .int()
      .nullable()
      .describe('the revision of this run that readers see; null: they see another'),
    pushedBy: z.string().describe('the name of the token'),
    rows: count.nullable(),
    files: z.object({ total: count, received: count, stalled: count }),
    bytes: z.object({ total: bytes, received: bytes }),
    lastProgressAt: instant.nullable(),
    load: z
      .object({
        attempt: z.int().min(1),
        worker: z.string(),
        phase: loadPhase.nullable().describe('null when the attempt has ended'),
        bytes,
        rows: count,
        startedAt: instant,
        nextTryAt: instant.nullable(),
        lastError: z.string().nullable(),
      })
      .nullable(),
    error: revisionError.nullable(),
    mayDo: z.array(action),
  })
  .meta({ id: 'RunSummary' });

export const runList = z
  .object({ runs: z.array(runSummary), nextCursor: z.string().nullable() })
  .meta({ id: 'RunList' });

export const model = z
  .object({
    model: z.string(),
    contract: z.record(z.string(), z.number()).describe('what its runs are held to; see the PUT'),
    current: z
      .object({
        run: z.string(),
        revision: z.int(),
        publishedAt: instant,
        publishedBy: z.string(),
        rows: count.nullable(),
        publicationId: z.int(),
      })
      .nullable()
      .describe('what readers see; null: nothing yet'),
    createdAt: instant,
  })
  .meta({ id: 'Model' });

export const modelList = z.object({ models: z.array(model) }).meta({ id: 'ModelList' });

export const problem = z
  .object({
    type: z.string().describe('/problems/{code}: a page that says what to do'),
    title: z.string(),
    status: z.int(),
    detail: z.string().describe('what happened, to what, and what to do next'),
    code: z.string(),
    retryable: z.boolean().describe('whether the same request may succeed later'),
    request_id: z.string().describe('leads to the log of the service'),
  })
  .meta({ id: 'Problem' });

export const probe = z.object({ status: z.string() }).meta({ id: 'Probe' });

const profile = z.object({
  rows: count,
  min: z.number().nullable(),
  max: z.number().nullable(),
  mean: z.number().nullable(),
  stddev: z.number().nullable(),
  deciles: z.array(z.number()),
  bytes,
  seconds: z.number(),
});

export const run = z
  .object({
    model: z.string(),
    run: z.string(),
    revision: z.int().min(1),
    state: RUN_STATE,
    as_of: instant,
    declaredAt: instant,
    queuedAt: instant.nullable(),
    loadedAt: instant.nullable(),
    publishedAt: instant.nullable(),
    publishedRevision: z.int().nullable(),
    pushedBy: z.string(),
    source: z.record(z.string(), z.unknown()).nullable().describe('what the sender said of itself'),
    rows: count.nullable(),
    totals: z.object({ files: count, bytes, lines: count.nullable(), receivedBytes: bytes }),
    progress: z
      .object({
        step: z.enum(['receiving', 'copying', 'building_key', 'attaching', 'publishing']),
        doneBytes: bytes,
        totalBytes: bytes,
        bytesPerSecond: z.number().nullable(),
        etaSeconds: z
          .number()
          .nullable()
          .describe('until the end of this step; null when nothing that was measured can tell'),
      })
      .nullish()
      .describe('null when nothing is going on; only a GET tells it'),
    load: z
      .object({
        attempt: z.int().min(1),
        worker: z.string(),
        phase: loadPhase.nullable(),
        bytes,
        rows: count,
        startedAt: instant,
        updatedAt: instant,
        finishedAt: instant.nullable(),
        outcome: z.enum(['published', 'superseded', 'held', 'failed', 'retry', 'lost']).nullable(),
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
    gates: z
      .array(
        z.object({
          gate: z.string(),
          expected: z.unknown(),
          found: z.unknown(),
          broken: z.boolean(),
        }),
      )
      .nullish(),
    profile: profile.nullish(),
    previous: z
      .object({ run: z.string(), revision: z.int(), profile: profile.nullable() })
      .nullish()
      .describe('the run that readers saw before, to compare with'),
    mayDo: z.array(action),
    files: z.array(
      z.object({
        name: z.string(),
        bytes,
        sha256: z.string().nullable(),
        lines: count.nullable(),
        state: z.enum(['receiving', 'received']),
        offset: bytes,
        lastProgressAt: instant,
        stalled: z.boolean(),
        uploadUrl: z.string(),
      }),
    ),
  })
  .meta({ id: 'Run' });

export const history = z
  .object({
    revisions: z.array(
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
    ),
    attempts: z.array(
      z.object({
        revision: z.int(),
        attempt: z.int(),
        worker: z.string(),
        phase: loadPhase,
        outcome: z.enum(['published', 'superseded', 'held', 'failed', 'retry', 'lost']).nullable(),
        error: z.string().nullable(),
        bytes,
        rows: count,
        nextTryAt: instant.nullable(),
        phaseSeconds: z.record(z.string(), z.number()).nullable(),
        startedAt: instant,
        finishedAt: instant.nullable(),
      }),
    ),
    events: z.array(
      z.object({
        at: instant,
        actor: z.string(),
        action: z.string(),
        revision: z.int().nullable(),
        detail: z.record(z.string(), z.unknown()).nullable(),
      }),
    ),
    publications: z.array(
      z.object({
        revision: z.int(),
        at: instant,
        by: z.string(),
        reason: z.string().nullable(),
        publicationId: z.int(),
      }),
    ),
    throughput: z
      .array(
        z.object({
          at: instant,
          receivedBytes: bytes,
          loadedBytes: bytes,
          loadedRows: count,
        }),
      )
      .describe('what this process saw of the newest revision, in the last half hour or more'),
  })
  .meta({ id: 'RunHistory' });

export const status = z
  .object({
    at: instant,
    queue: z.object({
      waiting: count,
      loading: count,
      betweenTries: count.describe('of those waiting: a load of them broke off before'),
      oldestQueuedAt: instant.nullable(),
      oldestWaitSeconds: z.number().nullable(),
    }),
    receiving: z.object({
      runs: count,
      files: count,
      stalledFiles: count,
      missingBytes: bytes,
      stalledAfterSeconds: count,
    }),
    loaders: count.describe('loaders that are connected now'),
    states: z.record(z.string(), count).describe('runs by the stored state of their newest revision'),
    disk: z.object({
      freeBytes: bytes,
      promisedBytes: bytes,
      keptFreeBytes: bytes,
      largestUploadBytes: bytes.describe('the largest file that a declaration would get room for now'),
    }),
    needsAttention: z.array(runSummary).describe('failed, held, stalled, or tried more than once'),
  })
  .meta({ id: 'Status' });

export const session = z
  .object({
    signedIn: z.boolean(),
    name: z.string().nullable(),
    scopes: z.array(z.enum(['push', 'read', 'operate', 'admin'])),
    models: z.array(z.string()).nullable().describe('null covers every model'),
  })
  .meta({ id: 'Session' });

export type RunSummary = z.infer<typeof runSummary>;
export type RunState = z.infer<typeof RUN_STATE>;
export type RunList = z.infer<typeof runList>;
export type Run = z.infer<typeof run>;
export type RunHistory = z.infer<typeof history>;
export type Status = z.infer<typeof status>;
export type Session = z.infer<typeof session>;
export type Profile = z.infer<typeof profile>;
