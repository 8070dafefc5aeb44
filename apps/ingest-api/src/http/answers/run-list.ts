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
} from './run-parts.ts';

export const runSummary = z
  .object({
    ...runBasics,
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
    brokenGates: z.array(gateResult).describe('what holds it, while it is held'),
    mayDo: z.array(action),
  })
  .meta({ id: 'RunSummary' });

export const runList = z
  .object({ runs: z.array(runSummary), nextCursor: z.string().nullable() })
  .meta({ id: 'RunList' });
