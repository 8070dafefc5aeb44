/**
 * What the uploader acts on or shows, of the answers that `wire` defines. The service may add fields: they
 * are ignored.
 */
import * as wire from 'wire';
import type { z } from 'zod';

const OF_BOTH = {
  model: true,
  run: true,
  revision: true,
  state: true,
  rows: true,
  as_of: true,
  shown: true,
  files: true,
  bytes: true,
  load: true,
  error: true,
  pushedBy: true,
} as const;

export const runSchema = wire.run.pick({
  ...OF_BOTH,
  missing: true,
  progress: true,
  rejects: true,
  gates: true,
});

const runSummarySchema = wire.runSummary.pick({ ...OF_BOTH, declaredAt: true });

export const runListSchema = wire.runList.extend({ runs: runSummarySchema.array() });
export const filePageSchema = wire.filePage;
export const modelSchema = wire.model.pick({ model: true, current: true });

export type Run = z.infer<typeof runSchema>;
export type RunSummary = z.infer<typeof runSummarySchema>;
export type Shown = NonNullable<Run['shown']>;
export type Model = z.infer<typeof modelSchema>;
