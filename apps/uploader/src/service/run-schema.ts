import * as z from 'zod';

const bytes = z.number().nonnegative();

/** A run as the service tells it; only what the uploader acts on or shows, so that the service may add. */
export const runSchema = z.object({
  model: z.string(),
  run: z.string(),
  revision: z.int(),
  state: z.enum(['receiving', 'queued', 'loading', 'published', 'superseded', 'held', 'failed', 'cancelled']),
  rows: z.number().nullish(),
  files: z.array(
    z.object({
      name: z.string(),
      bytes,
      state: z.enum(['receiving', 'received']),
      offset: bytes,
      // Path-absolute, so that a token never travels to another host.
      uploadUrl: z.string().startsWith('/'),
    }),
  ),
  load: z
    .object({
      attempt: z.number().nullish(),
      phase: z.string().nullish(),
      bytes: z.number().nullish(),
      rows: z.number().nullish(),
      nextTryAt: z.string().nullish(),
      lastError: z.string().nullish(),
    })
    .nullish(),
  error: z
    .object({
      code: z.string(),
      detail: z.string(),
      file: z.string().nullish(),
      line: z.number().nullish(),
      byte_offset: z.number().nullish(),
    })
    .nullish(),
  rejects: z
    .object({
      total: z.number(),
      first: z.array(
        z.object({
          file: z.string(),
          line: z.number(),
          byte_offset: z.number(),
          code: z.string(),
          detail: z.string().nullish(),
          excerpt: z.string().nullish(),
        }),
      ),
    })
    .nullish(),
  pushedBy: z.string().nullish(),
});

export type Run = z.infer<typeof runSchema>;
export type RunState = Run['state'];
