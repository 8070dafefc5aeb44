import type { Contract } from 'db-schema';
import { z } from 'zod';

/** Bad lines that a run may have when its contract says nothing of them. */
export const MAX_REJECTED_LINES_DEFAULT = 0;
/** Loaded revisions that are kept beside the published one when the contract says nothing of them. */
export const KEEP_REVISIONS_DEFAULT = 3;

const count = z.int().min(0);

/** What a model's runs are held to: the body of `PUT /v1/models/{model}`. What is left out is not asked for. */
export const contractRequest = z
  .strictObject({
    scoreMin: z.number().optional(),
    scoreMax: z.number().optional(),
    minRows: count.optional(),
    maxRowChangePercent: z.number().min(0).optional(),
    maxScoreShiftPsi: z.number().min(0).optional(),
    maxRejectedLines: count.optional(),
    keepRevisions: count.max(1_000).optional(),
  })
  .refine(
    ({ scoreMin, scoreMax }) => scoreMin === undefined || scoreMax === undefined || scoreMin <= scoreMax,
    'scoreMin must not be above scoreMax',
  ) satisfies z.ZodType<Contract>;
