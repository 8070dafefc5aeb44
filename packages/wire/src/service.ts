import { z } from 'zod';
import { attributes } from './attributes.ts';
import { bytes, count, instant, RUN_STATE, runSummary } from './run.ts';

/** `1 month`, `7 days`: PostgreSQL reads it as an interval. */
const interval = z
  .string()
  .regex(
    /^\d{1,3} (hour|day|week|month|year)s?$/,
    'it must be a number and hours, days, weeks, months or years, for example "1 month" or "7 days"',
  );

const line = z
  .string()
  .regex(/^\P{C}{1,200}$/u, 'it must have 1 to 200 printable characters')
  .refine((text) => text.trim() === text, 'it must not begin or end with a space');

/**
 * What a model's runs must fulfil, and who answers for them. What is left out is not checked, or has the
 * service's default.
 */
export const contract = z
  .strictObject({
    scoreMin: z.number().optional().describe('lowest score of a run'),
    scoreMax: z.number().optional().describe('highest score of a run'),
    minRows: count.optional().describe('smallest number of rows'),
    maxRowChangePercent: z
      .number()
      .min(0)
      .optional()
      .describe('largest change of the row count, in percent of that of the published run'),
    maxScoreShiftPsi: z
      .number()
      .min(0)
      .optional()
      .describe('largest population stability index in comparison with the published run'),
    maxRows: z
      .int()
      .min(1)
      .optional()
      .describe('largest number of rows; a run with more is refused or fails'),
    maxBytes: count
      .min(1)
      .optional()
      .describe('largest number of bytes of decompressed lines; a run with more is refused or fails'),
    maxRejectedLines: count.optional().describe('bad lines that are skipped; with one more the run fails'),
    keepRevisions: count
      .max(1_000)
      .optional()
      .describe('loaded revisions that are kept in addition to the published one'),
    expectEvery: interval
      .refine((text) => !/^0+ /.test(text), 'it must be longer than 0')
      .optional()
      .describe(
        'how often a run is expected: the next `as_of` is this much later than that of the published run',
      ),
    expectGrace: interval
      .optional()
      .describe('time from the `as_of` of an expected run until it is overdue (default: 1 day)'),
    owner: line.optional().describe('who answers for the scores'),
    contact: line.optional().describe('how to reach them: an address, a channel or a URL'),
    attributes: attributes
      .optional()
      .describe(
        'attributes of the lines, with their types and rules; each is a column of `scores_typed.<model>`',
      ),
  })
  .refine(
    ({ scoreMin, scoreMax }) => scoreMin === undefined || scoreMax === undefined || scoreMin <= scoreMax,
    'scoreMin must not be above scoreMax',
  )
  .refine(
    ({ minRows, maxRows }) => minRows === undefined || maxRows === undefined || minRows <= maxRows,
    'minRows must not be above maxRows',
  )
  .refine(
    ({ expectEvery, expectGrace }) => expectGrace === undefined || expectEvery !== undefined,
    'expectGrace needs expectEvery',
  );

/** The run that a model's contract expects next. */
const due = z.object({
  as_of: instant.describe('one `expectEvery` after the `as_of` of the run that readers see'),
  at: instant.describe('that plus `expectGrace`: when no such run is published by then, it is overdue'),
  overdue: z.boolean(),
});

export const model = z
  .object({
    model: z.string(),
    contract,
    due: due
      .nullable()
      .describe(
        'the run that is expected next; null when the contract has no `expectEvery`. Before the first publication it counts from `createdAt`',
      ),
    current: z
      .object({
        run: z.string(),
        revision: z.int(),
        as_of: instant,
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
    overdueModels: count.describe('models whose next run is overdue'),
    overdue: z
      .array(
        z.object({
          model: z.string(),
          due,
          shown: z
            .object({ run: z.string(), as_of: instant, publishedAt: instant })
            .nullable()
            .describe('what readers see; null: nothing yet'),
          newest: z
            .object({ run: z.string(), state: RUN_STATE.exclude(['loading']), as_of: instant })
            .nullable()
            .describe(
              'the run with the latest `as_of` after that of `shown`, and its stored state; null: there is none',
            ),
        }),
      )
      .max(50)
      .describe('those models, the one that is overdue for the longest time first; at most 50'),
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
export type Contract = z.infer<typeof contract>;
export type Model = z.infer<typeof model>;
export type ModelList = z.infer<typeof modelList>;
export type Status = z.infer<typeof status>;
export type Session = z.infer<typeof session>;
