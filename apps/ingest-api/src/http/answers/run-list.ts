import { z } from 'zod';
import {
  action,
  bytes,
  count,
  gateResult,
  instant,
  loadPhase,
  revisionError,
  runBasics,
  runFile,
} from './run-parts.ts';

export const runSummary = z
  .object({
    ...runBasics,
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
    brokenGates: z.array(gateResult).describe('what holds it, while it is held'),
    mayDo: z.array(action),
  })
  .meta({ id: 'RunSummary' });

export const filePage = z
  .object({
    revision: z.int().min(1).describe('all pages of one listing are of the same revision'),
    files: z.array(runFile).describe('by name'),
    nextCursor: z.string().nullable(),
  })
  .meta({ id: 'FilePage' });

export const runList = z
  .object({ runs: z.array(runSummary), nextCursor: z.string().nullable() })
  .meta({ id: 'RunList' });
