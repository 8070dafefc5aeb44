import type { ErrorCode } from 'wire';
import { problemCodes } from '../../src/http/openapi.ts';
import { OPERATIONS } from '../../src/http/operations.ts';

const ROUTES = OPERATIONS.map((operation) => ({
  method: operation.method.toUpperCase(),
  path: new RegExp(`^${operation.path.replace(/:\w+/g, '[^/]+')}$`),
  codes: problemCodes(operation),
}));

/** Whichever test receives a problem that the OpenAPI document does not have for its route, fails. */
export async function requireDocumented(method: string, answer: Response): Promise<Response> {
  const route = ROUTES.find((it) => it.method === method && it.path.test(new URL(answer.url).pathname));
  const isProblem = answer.headers.get('content-type')?.startsWith('application/problem+json') === true;
  if (route === undefined || !isProblem || method === 'HEAD') return answer;
  const { code } = (await answer.clone().json()) as { code: ErrorCode };
  if (route.codes.has(code)) return answer;
  throw new Error(
    `${method} ${answer.url} answered "${code}", which its operation in OPERATIONS does not have.`,
  );
}
