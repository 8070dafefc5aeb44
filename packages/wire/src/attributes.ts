import { z } from 'zod';

/** The columns that the typed view of a model has anyway: those of `scores.<model>`. */
const VIEW_COLUMNS = ['pk', 'score', 'attributes', 'run', 'as_of', 'published_at'];
/** PostgreSQL truncates the names of columns at 63 bytes. */
const NAME_BYTES_MAX = 63;
const ATTRIBUTES_MAX = 100;
const ENUM_MAX = 100;

const name = z
  .string()
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]+$/u, 'it must have at least one character, and only printable ones')
  .refine(
    (text) => new TextEncoder().encode(text).length <= NAME_BYTES_MAX,
    `it must have at most ${NAME_BYTES_MAX} bytes, the limit of a column's name in PostgreSQL`,
  )
  .refine(
    (text) => !VIEW_COLUMNS.includes(text),
    `it must not be ${VIEW_COLUMNS.join(', ')}: the view scores_typed.<model> has columns of these names`,
  )
  .describe('the key in the lines, and the column of `scores_typed.<model>`');

const required = z
  .boolean()
  .optional()
  .describe('whether every line must have it; `null` counts as missing (default: false)');

const allowed = <T extends z.ZodType<string | number>>(value: T) =>
  z
    .array(value)
    .min(1)
    .max(ENUM_MAX)
    .refine((values) => new Set(values).size === values.length, 'its values must be different')
    .optional()
    .describe('the values that are allowed');

/** What is stored as text must be text that PostgreSQL can store; the contract is stored, too. */
const text = z
  .string()
  .max(200)
  .refine(
    (value) => value.isWellFormed() && !value.includes('\0'),
    'it must not have NUL or half a surrogate pair',
  );

const attribute = z
  .discriminatedUnion('type', [
    z.strictObject({ name, type: z.literal('string'), required, enum: allowed(text) }),
    z.strictObject({
      name,
      type: z.literal('number'),
      required,
      min: z.number().optional(),
      max: z.number().optional(),
      enum: allowed(z.number()),
    }),
    z.strictObject({
      name,
      type: z.literal('integer'),
      required,
      min: z.int().optional(),
      max: z.int().optional(),
      enum: allowed(z.int()),
    }),
    z.strictObject({ name, type: z.literal('boolean'), required }),
  ])
  .refine(
    (it) => !('min' in it) || it.min === undefined || it.max === undefined || it.min <= it.max,
    'min must not be above max',
  )
  .refine(
    (it) =>
      !('min' in it || 'max' in it) ||
      it.enum?.every((value) => value >= (it.min ?? value) && value <= (it.max ?? value)) !== false,
    'each value of enum must be from min to max',
  );

/** The attributes that a contract declares; each is a column of the typed view, in this order. */
export const attributes = z
  .array(attribute)
  .min(1)
  .max(ATTRIBUTES_MAX)
  .refine((list) => new Set(list.map((it) => it.name)).size === list.length, 'each name must occur once');

export type Attribute = z.infer<typeof attribute>;
