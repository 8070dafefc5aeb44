import * as z from 'zod';
import type { ExchangeResponse } from './exchange.ts';

/** RFC 9457, as far as the uploader acts on it. The service's own have a request id, other servers' do not. */
const problemSchema = z.looseObject({
  title: z.string().optional(),
  detail: z.string().optional(),
  code: z.string().optional(),
  retryable: z.boolean().optional(),
  request_id: z.string(),
});
export type Problem = z.infer<typeof problemSchema>;

/** An answer came, and it is not the one asked for. */
export class HttpFault extends Error {
  override readonly name = 'HttpFault';
  readonly method: string;
  readonly status: number;
  /** null when the answer is not of the service itself: a proxy's HTML page, say; and of a HEAD, which has no body. */
  readonly problem: Problem | null;
  readonly retryAfterMs: number | null;

  /** `said` is for an answer whose body does not tell what is wrong with it. */
  constructor(response: ExchangeResponse, said?: string) {
    const problem = readProblem(response);
    const reason = said ?? problem?.detail ?? problem?.title ?? firstText(response.body);
    const requestId = problem?.request_id ? ` (request ${problem.request_id})` : '';
    super(
      `${response.method} ${response.url} answered ${response.status}${reason ? `: ${reason}` : ''}${requestId}`,
    );
    this.method = response.method;
    this.status = response.status;
    this.problem = problem;
    // Their date is compared with their clock: ours may be wrong, or jump.
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

/** A page's words without its markup, cut: enough to recognise whose page it is. */
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
