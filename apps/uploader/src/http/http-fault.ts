import * as z from 'zod';
import type { ExchangeResponse } from './exchange.ts';

/** The fields of RFC 9457 that the uploader uses. Only problems of the service itself have a request id. */
const problemSchema = z.looseObject({
  title: z.string().optional(),
  detail: z.string().optional(),
  code: z.string().optional(),
  retryable: z.boolean().optional(),
  request_id: z.string(),
});
export type Problem = z.infer<typeof problemSchema>;

/** An answer with a status that is not the expected one. */
export class HttpFault extends Error {
  override readonly name = 'HttpFault';
  /** Which server answered what; the same for each request that ends like this. */
  readonly fact: string;
  readonly host: string;
  readonly method: string;
  readonly status: number;
  /**
   * null for an answer to HEAD, which has no body, and when the service did not send it: the HTML page of a
   * proxy, say.
   */
  readonly problem: Problem | null;
  /** Not the answer of the service itself, but of a proxy in front of it, or of another server at its address. */
  readonly isForeign: boolean;
  readonly retryAfterMs: number | null;

  /** @param said for an answer whose body does not say what is wrong. */
  constructor(response: ExchangeResponse, said?: string) {
    const problem = readProblem(response);
    const described = said ?? redirectOf(response) ?? problem?.detail ?? problem?.title;
    const reason = (described ?? firstText(response.body)).replace(/\.$/, '');
    const requestId = problem?.request_id ? ` (request ${problem.request_id})` : '';
    const answered = `answered ${response.status}${reason ? `: ${reason}` : ''}`;
    super(`${response.method} ${response.url} ${answered}${requestId}`);
    this.host = new URL(response.url).host;
    this.fact = `${this.host} ${answered}`;
    this.method = response.method;
    this.status = response.status;
    this.problem = problem;
    this.isForeign = problem === null && !isOursWithoutBody(response);
    // A date is compared with the clock of the server that sent it: the local clock may be wrong, or jump.
    const theirNowMs = Date.parse(response.headers.date ?? '');
    const nowMs = Number.isNaN(theirNowMs) ? Date.now() : theirNowMs;
    this.retryAfterMs = readRetryAfterMs(response.headers['retry-after'], nowMs);
  }
}

function readProblem(response: ExchangeResponse): Problem | null {
  if (!/^application\/problem\+json/i.test(response.headers['content-type'] ?? '')) return null;
  try {
    return problemSchema.safeParse(JSON.parse(response.body)).data ?? null;
  } catch {
    return null;
  }
}

/** tus 1.0 §Tus-Resumable: the service sends it with every answer about an upload. */
function isOursWithoutBody({ method, headers }: ExchangeResponse): boolean {
  if (headers['tus-resumable'] !== undefined) return true;
  return method === 'HEAD' && /^application\/problem\+json/i.test(headers['content-type'] ?? '');
}

/** Without the query: it may hold a session. */
function redirectOf({ status, headers, url }: ExchangeResponse): string | undefined {
  if (status < 300 || status >= 400 || headers.location === undefined) return undefined;
  const to = URL.parse(headers.location, url);
  return `redirect to ${to === null ? headers.location : to.origin + to.pathname}`;
}

/** The text of an HTML page, shortened: enough to see which server sent it. */
function firstText(body: string): string {
  const words = body.replace(/<(style|script)[\s\S]*?<\/\1>|<[^>]*>/gi, ' ').replace(/\s+/g, ' ');
  const text = words.trim();
  return text.length > 160 ? `${text.slice(0, 160)}…` : text;
}

/** RFC 9110 §10.2.3: seconds, or a date. */
export function readRetryAfterMs(header: string | undefined, nowMs: number): number | null {
  if (header === undefined) return null;
  if (/^\s*\d+\s*$/.test(header)) return Number(header) * 1000;
  const atMs = Date.parse(header);
  return Number.isNaN(atMs) ? null : Math.max(0, atMs - nowMs);
}
