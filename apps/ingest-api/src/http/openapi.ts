import { Router } from 'express';
import * as answers from 'wire';
import { ERROR_CODES, type ErrorCode } from 'wire';
import { z } from 'zod';
import { SECURE_SESSION_COOKIE, SESSION_COOKIE } from './auth.ts';
import { OPERATIONS } from './operations.ts';
import { PROBLEM_CODES } from './problems.ts';
import { runKey } from './requests.ts';

/** One route, as the OpenAPI document describes it. */
export interface Operation {
  readonly method: 'get' | 'put' | 'post' | 'delete' | 'head' | 'patch' | 'options';
  /** In the form of Express: `:name` is a parameter. */
  readonly path: string;
  readonly summary: string;
  /** `any`: every valid token. null: public. */
  readonly scope: 'push' | 'read' | 'operate' | 'any' | null;
  readonly query?: z.ZodType;
  readonly body?: z.ZodType;
  /** Without this, a body is required. */
  readonly bodyMayBeMissing?: boolean;
  /** The media type of a body that is not JSON. */
  readonly bytes?: string;
  readonly headers?: Readonly<Record<string, Header>>;
  readonly example: Example;
  readonly answers: Readonly<Record<number, Answer>>;
  readonly problems: readonly ErrorCode[];
}

interface Header {
  readonly required: boolean;
  readonly says: string;
  /** JSON Schema; default: any text. */
  readonly schema?: Readonly<Record<string, unknown>>;
}

/**
 * A request that succeeds with a model `demo` whose run 2026-11 is published and whose run 2026-10 has
 * failed, when the examples are sent in the order of `OPERATIONS`. (The test inserts a real token and a real
 * upload id.)
 */
interface Example {
  /** Default: PATH_EXAMPLES. */
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly bytes?: string;
  /** The status of the answer. */
  readonly answers: number;
}

const PATH_EXAMPLES: Readonly<Record<string, string>> = {
  model: 'demo',
  run: '2026-11',
  id: '0f6a2c51d7e94b038c1e5a7f92b4d860',
};

/** JSON Schema of the decoded parameters in a path. */
const PATH_SCHEMAS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  model: { pattern: answers.MODEL_NAME.source },
  run: z.toJSONSchema(runKey),
  id: { pattern: '^[0-9a-f]{32}$' },
  code: { enum: PROBLEM_CODES },
};

export interface Answer {
  readonly says: string;
  readonly schema?: z.ZodType;
  /** Default: JSON. */
  readonly mediaType?: string;
  /** For an answer without a schema. */
  readonly example?: string;
}

export function openApiRoutes(): Router {
  const router = Router();
  const text = JSON.stringify(openApiDocument());
  router.get('/openapi.json', (_req, res) => {
    res.type('application/json').send(text);
  });
  return router;
}

const COMPONENTS = '#/components/schemas/';

/** Problems of any request; `OPERATIONS` has those of one route. */
const ANY_REQUEST: readonly ErrorCode[] = [
  'invalid_request',
  'method_not_allowed',
  'request_timeout',
  'expectation_failed',
  'headers_too_large',
  'not_implemented',
  'internal',
  'shutting_down',
];
const ANY_WITH_JSON: readonly ErrorCode[] = ['too_large', 'unsupported_media_type'];
const ANY_SIGNED_IN: readonly ErrorCode[] = [
  'unauthenticated',
  'forbidden',
  'rate_limited',
  'database_unavailable',
];

/** OpenAPI 3.1, made from the schemas that validate requests, and that tests compare with answers. */
function openApiDocument(): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const operation of OPERATIONS) {
    const address = operation.path.replace(/:(\w+)/g, '{$1}');
    paths[address] = { ...paths[address], [operation.method]: describeOperation(operation) };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'score-ingest',
      version: '1',
      description: 'Receives batches of model scores and loads them into PostgreSQL. Uploads use tus 1.0.',
    },
    security: [{ bearer: [] }, { cookie: [] }],
    paths,
    components: {
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer' },
        cookie: {
          type: 'apiKey',
          in: 'cookie',
          name: SECURE_SESSION_COOKIE,
          description: `A session that POST /session has started; over plain HTTP the cookie is ${SESSION_COOKIE}. Changes must also come from the status page.`,
        },
      },
      schemas: componentSchemas(),
      // For an address that is not in `paths`.
      responses: { UnknownAddress: problemAnswer(['unknown_address']) },
    },
  };
}

function describeOperation(operation: Operation): Record<string, unknown> {
  return {
    summary: operation.summary,
    ...(operation.scope === null ? { security: [] } : {}),
    ...(operation.scope === null ? {} : { 'x-scope': operation.scope }),
    parameters: [...pathParameters(operation), ...queryParameters(operation), ...headerParameters(operation)],
    ...requestBody(operation),
    responses: { ...successes(operation), ...problems(operation) },
  };
}

function pathParameters({ path, example }: Operation) {
  return [...path.matchAll(/:(\w+)/g)].map(([, name = '']) => ({
    name,
    in: 'path',
    required: true,
    example: example.path?.[name] ?? PATH_EXAMPLES[name],
    schema: { type: 'string', ...PATH_SCHEMAS[name] },
  }));
}

function queryParameters({ query, example }: Operation) {
  if (query === undefined) return [];
  const { properties = {} } = inline(query) as { properties?: Record<string, { description?: string }> };
  return Object.entries(properties).map(([name, { description, ...schema }]) => ({
    name,
    in: 'query',
    required: false,
    ...(description === undefined ? {} : { description }),
    ...exampleOf(example.query?.[name]),
    schema,
  }));
}

function headerParameters({ headers = {}, example }: Operation) {
  return Object.entries(headers).map(([name, { required, says, schema }]) => ({
    name,
    in: 'header',
    required,
    description: says,
    ...exampleOf(example.headers?.[name]),
    schema: schema ?? { type: 'string' },
  }));
}

function exampleOf(example: unknown) {
  return example === undefined ? {} : { example };
}

function requestBody({ body, bodyMayBeMissing = false, bytes, example }: Operation) {
  const required = !bodyMayBeMissing;
  if (bytes !== undefined) {
    const content = { [bytes]: { schema: {}, ...exampleOf(example.bytes) } };
    return { requestBody: { required, content } };
  }
  if (body === undefined) return {};
  const content = { 'application/json': { schema: inline(body), ...exampleOf(example.body) } };
  return { requestBody: { required, content } };
}

function successes({ answers: given }: Operation): Record<string, unknown> {
  return Object.fromEntries(Object.entries(given).map(([status, answer]) => [status, success(answer)]));
}

function success({ says, schema, mediaType, example }: Answer): Record<string, unknown> {
  if (schema === undefined && mediaType === undefined) return { description: says };
  const content = { ...(schema === undefined ? {} : { schema: reference(schema) }), ...exampleOf(example) };
  return { description: says, content: { [mediaType ?? 'application/json']: content } };
}

/** Every problem that the route may answer. */
export function problemCodes({ scope, body, problems }: Operation): ReadonlySet<ErrorCode> {
  return new Set([
    ...ANY_REQUEST,
    ...(scope === null ? [] : ANY_SIGNED_IN),
    ...(body === undefined ? [] : ANY_WITH_JSON),
    ...problems,
  ]);
}

/** One answer per status; problems with the same status differ in `code`. */
function problems(operation: Operation): Record<string, unknown> {
  const byStatus = Map.groupBy(problemCodes(operation), (code) => ERROR_CODES[code].status);
  return Object.fromEntries(
    [...byStatus].map(([status, sharing]) => [String(status), problemAnswer(sharing)]),
  );
}

function problemAnswer(codes: readonly ErrorCode[]): Record<string, unknown> {
  const properties = {
    code: { enum: codes },
    type: { enum: codes.map((code) => `/problems/${code}`) },
  };
  const schema = { allOf: [{ $ref: `${COMPONENTS}Problem` }, { properties }] };
  return {
    description: codes.map((code) => `\`${code}\`: ${ERROR_CODES[code].title}`).join('; '),
    content: { 'application/problem+json': { schema } },
  };
}

function reference(schema: z.ZodType): unknown {
  const id = schema.meta()?.id;
  return id === undefined ? inline(schema) : { $ref: `${COMPONENTS}${id}` };
}

function inline(schema: z.ZodType): Record<string, unknown> {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input' }) as Record<string, unknown>;
  return rest;
}

function componentSchemas(): Record<string, unknown> {
  const registry = z.registry<{ id: string }>();
  for (const schema of Object.values(answers)) {
    if (!(schema instanceof z.ZodType)) continue;
    const id = schema.meta()?.id;
    if (id !== undefined) registry.add(schema, { id });
  }
  const { schemas } = z.toJSONSchema(registry, { uri: (id) => `${COMPONENTS}${id}` });
  return Object.fromEntries(
    Object.entries(schemas).map(([id, { $schema: _schema, $id: _id, id: _own, ...rest }]) => [id, rest]),
  );
}
