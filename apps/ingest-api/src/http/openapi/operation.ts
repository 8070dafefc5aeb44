import { z } from 'zod';
import { ERROR_CODES, type ErrorCode } from '../../errors.ts';
import { runKey } from '../requests.ts';

/** One route, as the OpenAPI document describes it. */
export interface Operation {
  readonly method: 'get' | 'put' | 'post' | 'delete' | 'head' | 'patch' | 'options';
  /** As the routes have it: `:name` is a parameter. */
  readonly path: string;
  readonly summary: string;
  /** null: open to everybody. */
  readonly scope: 'push' | 'read' | 'operate' | 'any' | null;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  /** The body, which is required where there is one, may be left out. */
  readonly bodyMayBeMissing?: boolean;
  /** The media type of a body that is no JSON. */
  readonly bytes?: string;
  /** Headers that the request must or may have. */
  readonly headers?: Readonly<Record<string, Header>>;
  readonly example: Example;
  readonly answers: Readonly<Record<number, Answer>>;
  readonly problems: readonly ErrorCode[];
}

export interface Header {
  readonly required: boolean;
  readonly says: string;
  /** JSON Schema; any text when it is left out. */
  readonly schema?: Readonly<Record<string, unknown>>;
}

/**
 * A request that works, on a model `demo` whose run 2026-11 is published and whose run 2026-10 has failed, one
 * operation after the other in the order of the tables. (The test puts in a real token and a real upload id.)
 */
export interface Example {
  /** Where it is not PATH_EXAMPLES. */
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly bytes?: string;
  /** The status of the answer. */
  readonly answers: number;
}

export const PATH_EXAMPLES: Readonly<Record<string, string>> = {
  model: 'demo',
  run: '2026-11',
  id: '0f6a2c51d7e94b038c1e5a7f92b4d860',
};

/** JSON Schema of the parameters in a path, decoded. */
export const PATH_SCHEMAS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  model: { pattern: '^[a-z][a-z0-9_]{0,47}$' },
  run: z.toJSONSchema(runKey),
  id: { pattern: '^[0-9a-f]{32}$' },
  code: { enum: Object.keys(ERROR_CODES) },
};

export interface Answer {
  readonly says: string;
  readonly schema?: z.ZodType;
  /** When it is not JSON. */
  readonly mediaType?: string;
  /** Of an answer that no schema describes. */
  readonly example?: string;
}

export const NOT_MODIFIED: Answer = { says: 'what the ETag in If-None-Match stands for has not changed' };
