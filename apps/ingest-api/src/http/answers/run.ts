import { z } from 'zod';
import {
  action,
  bytes,
  count,
  gateResult,
  instant,
  loadOutcome,
  loadPhase,
  profile,
  rejectedLine,
  revisionError,
  runBasics,
  runFile,
} from './run-parts.ts';

export const run = z
  .object({
    ...runBasics,
    source: z.record(z.string(), z.unknown()).nullable().describe('what the sender said of itself'),
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
        loadEtaSeconds: z
          .number()
          .nullable()
          .describe('until readers see the run; null when nothing that was measured can tell'),
      })
      .nullish()
      .describe('null when nothing is going on; only a GET tells it'),
    load: z
      .object({
        attempt: z.int().min(1),
        worker: z.string(),
        phase: loadPhase.nullable(),
        keyBuild: z
          .object({
            step: z.enum(['scanning', 'sorting', 'writing']),
            done: count.describe('blocks of the table while scanning, rows while writing'),
            total: count.describe('0 while nothing is counted'),
            stepSeconds: z.number(),
            seconds: z.number(),
          })
          .nullable()
          .describe('how far the build of the key is, at the last look'),
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
      .describe('the run that readers saw before, to compare with'),
    mayDo: z.array(action),
    missing: z
      .object({
        files: z.array(runFile).max(100),
        nextCursor: z.string().nullable().describe('for `GET …/files?state=receiving`; null: these are all'),
      })
      .describe('the first files by name that bytes are missing of, while the run is receiving'),
  })
  .meta({ id: 'Run' });
