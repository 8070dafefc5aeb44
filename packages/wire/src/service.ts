import { z } from 'zod';
import { bytes, count, instant, runSummary } from './run.ts';

export const model = z
  .object({
    model: z.string(),
    contract: z
      .record(z.string(), z.number())
      .describe('the limits and gates of its runs; the `PUT` describes the fields'),
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

export const modelList = z
  .object({ models: z.array(model), nextCursor: z.string().nullable() })
  .meta({ id: 'ModelList' });

/** Every error of a request (RFC 9457). */
export const problem = z
  .object({
    type: z.string().describe('/problems/{code}: a page that says what to do'),
    title: z.string(),
    status: z.int(),
    detail: z.string().describe('what is wrong, where, and what to do'),
    code: z.string(),
    retryable: z.boolean().describe('whether the same request may succeed later'),
    request_id: z.string().describe('the lines of this request in the log of the service have it, too'),
  })
  .meta({ id: 'Problem' });

export const probe = z.object({ status: z.string() }).meta({ id: 'Probe' });

export const status = z
  .object({
    at: instant,
    queue: z.object({
      waiting: count,
      loading: count,
      betweenTries: count.describe('waiting runs that a loader has tried to load before'),
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
    loaders: count.describe('loaders that are connected to the database'),
    states: z.record(z.string(), count).describe('runs by the stored state of their newest revision'),
    disk: z.object({
      freeBytes: bytes.nullable().describe('null when the store is a bucket'),
      promisedBytes: bytes,
      keptFreeBytes: bytes,
      largestUploadBytes: bytes.describe('the largest file that fits now'),
    }),
    needsAttention: z
      .array(runSummary)
      .max(50)
      .describe(
        'runs that failed, are held or stalled, or wait after more than one attempt to load them; the newest 50',
      ),
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

export type Problem = z.infer<typeof problem>;
export type Status = z.infer<typeof status>;
export type Session = z.infer<typeof session>;
