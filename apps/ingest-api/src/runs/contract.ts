import type { Contract } from 'db-schema';
import { z } from 'zod';

/** Bad lines that a run may have when its contract says nothing of them. */
export const MAX_REJECTED_LINES_DEFAULT = 0;
/** Loaded revisions that are kept beside the published one when the contract says nothing of them. */
export const KEEP_REVISIONS_DEFAULT = 3;

/** What a run may have when its contract says nothing of it: PostgreSQL's disk is shared by all models. */
export interface RunLimits {
  readonly maxRows: number;
  /** Of lines, decompressed. */
  readonly maxBytes: number;
}

export function limitsOf(contract: Contract, defaults: RunLimits): RunLimits {
  return { maxRows: contract.maxRows ?? defaults.maxRows, maxBytes: contract.maxBytes ?? defaults.maxBytes };
}

const count = z.int().min(0);

/** What a model's runs are held to: the body of `PUT /v1/models/{model}`. What is left out is not asked for. */
export const contractRequest = z
  .strictObject({
    scoreMin: z.number().optional(),
    scoreMax: z.number().optional(),
    minRows: count.optional(),
    maxRowChangePercent: z.number().min(0).optional(),
    maxScoreShiftPsi: z.number().min(0).optional(),
    maxRows: count.min(1).optional(),
    maxBytes: count.min(1).optional(),
    maxRejectedLines: count.optional(),
    keepRevisions: count.max(1_000).optional(),
  })
  .refine(
    ({ scoreMin, scoreMax }) => scoreMin === undefined || scoreMax === undefined || scoreMin <= scoreMax,
    'scoreMin must not be above scoreMax',
  ) satisfies z.ZodType<Contract>;
