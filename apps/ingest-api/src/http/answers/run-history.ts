import { z } from 'zod';
import { bytes, count, instant, loadOutcome, loadPhase, RUN_STATE, revisionError } from './run-parts.ts';

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
            .describe('null also when it is longer than 1,000 characters'),
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
      .describe('what this process saw of the newest revision, in the last half hour or more'),
  })
  .meta({ id: 'RunHistory' });
