import { ERROR_CODES, type ErrorCode, type FaultKind } from 'wire';
import * as z from 'zod';
import { OutOfTime, UploaderError } from '../errors.ts';
import { type ExchangeResponse, NetworkFault, pause, type TimeLimit } from './exchange.ts';

/** The fields of RFC 9457 that the uploader uses. Only problems of the service itself have a request id. */
const problemSchema = z.looseObject({
  title: z.string().optional(),
  detail: z.string().optional(),
  code: z.string().optional(),
  retryable: z.boolean().optional(),
  request_id: z.string(),
});
type Problem = z.infer<typeof problemSchema>;

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
  readonly retryAfterMs: number | null;

  /** @param said for an answer whose body does not say what is wrong. */
  constructor(response: ExchangeResponse, said?: string) {
    const problem = readProblem(response);
    const reason = (said ?? problem?.detail ?? problem?.title ?? firstText(response.body)).replace(/\.$/, '');
    const requestId = problem?.request_id ? ` (request ${problem.request_id})` : '';
    const answered = `answered ${response.status}${reason ? `: ${reason}` : ''}`;
    super(`${response.method} ${response.url} ${answered}${requestId}`);
    this.host = new URL(response.url).host;
    this.fact = `${this.host} ${answered}`;
    this.method = response.method;
    this.status = response.status;
    this.problem = problem;
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

/**
 * The subject of the request: the same status means different things for a run, for an upload, and for a run
 * that the service has already answered about.
 */
export type Asked = 'run' | 'known_run' | 'upload';

type Verdict =
  | { do: 'retry'; retryAfterMs: number | null }
  /** The upload's resource is gone: the run has to be declared again. */
  | { do: 'declare_again' }
  | { do: 'give_up'; kind: FaultKind; advice: string };

/**
 * Certificate and protocol faults of TLS last until somebody changes a setting. Every other fault of the
 * network is worth another try: ECONNRESET, ECONNREFUSED, ETIMEDOUT, EPIPE, EAI_AGAIN, our own ESTALLED; and
 * ENOTFOUND and EHOSTUNREACH too, which name services and rolling nodes cause for minutes.
 */
const TLS_CODE =
  /^(CERT_|ERR_TLS_|ERR_SSL_|ERR_OSSL_|UNABLE_TO_|SELF_SIGNED_CERT|DEPTH_ZERO_SELF_SIGNED_CERT|CRL_|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|EPROTO$)/;

/**
 * For answers that are not the service's own; its own codes say what a client does (`ERROR_CODES` of wire).
 */
const NEVER_RETRIED_5XX = [501, 505];
const RETRIED_4XX = [408, 423, 425, 429];

const WRONG_ADDRESS = 'Check UPLOADER_URL: this does not look like the ingest service.';

const GIVE_UP: Record<number, { kind: FaultKind; advice: string }> = {
  400: { kind: 'usage', advice: 'Fix what it names and push again.' },
  401: {
    kind: 'not_allowed',
    advice: 'Set a valid token in UPLOADER_TOKEN or --token-file, and push again.',
  },
  403: { kind: 'not_allowed', advice: 'The token does not allow this: ask the operators for one that does.' },
  405: { kind: 'usage', advice: WRONG_ADDRESS },
  409: { kind: 'data', advice: 'Check the run (uploader status MODEL RUN) before you push again.' },
  412: { kind: 'usage', advice: 'Check UPLOADER_URL: this server does not speak tus 1.0.' },
  413: { kind: 'usage', advice: 'Raise the limit of the proxy or service, or lower --chunk-size.' },
  415: { kind: 'bug', advice: 'This is a bug of the uploader, or a proxy changes its headers.' },
  422: { kind: 'data', advice: 'Fix what it names and push again.' },
};

/**
 * For answers that are not the service's own: the address is wrong, or something in front of the service
 * answers.
 */
const NOT_OURS: Record<number, string> = {
  401: 'This is not the ingest service, or a proxy in front of it asks for its own credentials: check UPLOADER_URL and the proxy.',
  403: 'A proxy or firewall refuses the request, not the service: ask its operators, or check UPLOADER_URL.',
  407: 'A proxy asks for credentials: give them in HTTPS_PROXY, with NODE_USE_ENV_PROXY=1.',
  413: 'A proxy in front of the service limits the size of a request: raise its limit (nginx: client_max_body_size), or lower --chunk-size.',
};

/**
 * The only place that decides what an error of the network or the service means. null: another kind of error.
 */
export function judge(error: unknown, asked: Asked): Verdict | null {
  if (error instanceof NetworkFault) {
    if (!TLS_CODE.test(error.code)) return { do: 'retry', retryAfterMs: null };
    const advice =
      'Check UPLOADER_URL, and --ca (or NODE_EXTRA_CA_CERTS) if the certificate is signed by your own authority.';
    return { do: 'give_up', kind: 'usage', advice };
  }
  if (error instanceof HttpFault) return judgeStatus(error, asked);
  return null;
}

function judgeStatus(fault: HttpFault, asked: Asked): Verdict {
  const { status, problem } = fault;
  const action = actionOf(problem);
  const retry: Verdict = { do: 'retry', retryAfterMs: fault.retryAfterMs };
  // The address is right, as earlier requests show: something in between replaced the answer with a page.
  if (asked !== 'run' && status < 300) return retry;
  if (asked === 'upload' && (status === 404 || status === 410)) return { do: 'declare_again' };
  if (action === 'retry' || problem?.retryable === true || RETRIED_4XX.includes(status)) return retry;
  if (status >= 500 && !NEVER_RETRIED_5XX.includes(status) && problem?.retryable !== false) return retry;
  // tus 1.0 §PATCH: 409 is an offset that is not the server's; the next try asks for it first.
  if (asked === 'upload' && status === 409) return retry;
  // An answer to HEAD has no body that shows who sent it.
  if (problem === null && fault.method !== 'HEAD' && (status < 300 || status >= 400)) {
    return { do: 'give_up', kind: 'usage', advice: NOT_OURS[status] ?? WRONG_ADDRESS };
  }
  if (problem?.code === 'unknown_address') {
    return { do: 'give_up', kind: 'usage', advice: 'Check the path in UPLOADER_URL.' };
  }
  if (asked === 'upload' && status === 400)
    return { do: 'give_up', kind: 'bug', advice: 'This is a bug of the uploader.' };
  if (status === 404) {
    const advice = 'The model is not known, or the token does not cover it.';
    return { do: 'give_up', kind: 'not_allowed', advice };
  }
  if (status >= 300 && status < 400) {
    return { do: 'give_up', kind: 'usage', advice: 'Set UPLOADER_URL to the address of the redirect.' };
  }
  if (status >= 500) return { do: 'give_up', kind: 'bug', advice: 'Ask the operators of the service.' };
  const { kind, advice } = GIVE_UP[status] ?? { kind: 'usage', advice: WRONG_ADDRESS };
  return { do: 'give_up', kind: action ?? kind, advice };
}

/**
 * What wire's table says a client does about this problem; undefined when the service does not use its code.
 */
function actionOf(problem: Problem | null): 'retry' | FaultKind | undefined {
  const code = problem?.code;
  if (code === undefined || !isErrorCode(code)) return undefined;
  const { client } = ERROR_CODES[code];
  return client === 'declare_again' ? 'retry' : client;
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERROR_CODES, code);
}

export function givenUp(error: unknown, verdict: Verdict & { do: 'give_up' }): UploaderError {
  const message = error instanceof Error ? error.message : String(error);
  return new UploaderError(verdict.kind, `${message.replace(/\.$/, '')}. ${verdict.advice}`, {
    cause: error,
  });
}

export type RetryOptions = {
  asked: Asked;
  limit: TimeLimit;
  faults: FaultLog;
  /** Whom the fault concerns, for the log. */
  what: string;
  /** True when the failed try made progress; then the backoff starts from its beginning. */
  madeProgress?: () => boolean;
  random?: () => number;
};

/**
 * Tries until it succeeds, the fault is permanent, or the time is over (an UploaderError then says so).
 * A fault that this module does not know, and 'declare_again', are thrown as they are.
 */
export async function retrying<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  let failures = 0;
  for (;;) {
    let fault: Error;
    let retryAfterMs: number | null;
    try {
      const result = await attempt();
      if (failures > 0) options.faults.ended(options.what);
      return result;
    } catch (error) {
      const verdict = judge(error, options.asked);
      if (!verdict || verdict.do === 'declare_again' || !(error instanceof Error)) throw error;
      if (verdict.do === 'give_up') throw givenUp(error, verdict);
      fault = error;
      retryAfterMs = verdict.retryAfterMs;
    }
    failures = options.madeProgress?.() ? 1 : failures + 1;
    const pauseMs = backoffMs(failures, retryAfterMs, options.random ?? Math.random);
    const leftMs = options.limit.remainingMs();
    options.faults.happened(options.what, fault, pauseMs < leftMs ? Date.now() + leftMs : null);
    if (pauseMs >= leftMs) throw outOfTime(fault, failures);
    try {
      await pause(pauseMs, options.limit.signal);
    } catch (error) {
      throw error instanceof OutOfTime ? outOfTime(fault, failures) : error;
    }
  }
}

function outOfTime(lastFault: Error, tries: number): UploaderError {
  return new UploaderError(
    'try_again',
    `Out of time (--max-duration). The last fault was, in ${tries} ${tries === 1 ? 'try' : 'tries'}: ${lastFault.message}. Run the same command again: it continues from here.`,
    { cause: lastFault },
  );
}

export type FaultLog = {
  /** `untilMs`: when the retries end; null: they have ended, and the result says the fault. */
  happened: (what: string, fault: Error, untilMs: number | null) => void;
  /** A request that failed before has succeeded. */
  ended: (what: string) => void;
  /** At the end: the faults that happened again after they were said or counted, but for those that `results` name. */
  uncounted: (results: string) => string[];
};

const COUNTED_EVERY_MS = 5 * 60_000;

/**
 * Says each fault once, with the time until which it is retried, then counts it: every five minutes, and when it is
 * over. All transfers of a push share one log, because they meet the same faults.
 */
export function createFaultLog(say: (sentence: string) => void): FaultLog {
  const known = new Map<string, KnownFault>();
  return {
    happened: (what, fault, untilMs) => {
      const { fact, host, request } = describeFault(fault);
      const nowMs = Date.now();
      const one = known.get(fact) ?? {
        what,
        host,
        count: 0,
        counted: 0,
        sinceMs: nowMs,
        saidMs: 0,
        isOpen: false,
      };
      known.set(fact, one);
      one.count++;
      if (untilMs === null || nowMs - one.saidMs < COUNTED_EVERY_MS) return;
      const times = one.count === 1 ? '' : ` (${one.count} times since ${timeOfDay(one.sinceMs, nowMs)})`;
      say(`${what}: ${fact}${request}${times}; retrying until ${timeOfDay(untilMs, nowMs)}`);
      one.saidMs = nowMs;
      one.counted = one.count;
      one.isOpen = true;
    },
    ended: (what) => {
      const open = [...known.values()].filter(({ isOpen }) => isOpen);
      for (const [host, faults] of Map.groupBy(open, (one) => one.host)) {
        const count = faults.reduce((sum, one) => sum + one.count, 0);
        say(`${what}: ${host} answers again, after ${count} failed ${count === 1 ? 'try' : 'tries'}`);
      }
      for (const one of open) Object.assign(one, { isOpen: false, counted: one.count });
    },
    uncounted: (results) =>
      [...known]
        .filter(([fact, { count, counted }]) => count > counted && !results.includes(fact))
        .map(([fact, { what, count }]) => `${what}: ${fact}: ${count} times in all`),
  };
}

type KnownFault = {
  /** Whom it concerned first. */
  what: string;
  host: string;
  count: number;
  /** Of these, in a sentence so far. */
  counted: number;
  sinceMs: number;
  saidMs: number;
  /** Said, and no request has succeeded since. */
  isOpen: boolean;
};

function describeFault(fault: Error): { fact: string; host: string; request: string } {
  if (fault instanceof HttpFault) {
    const id = fault.problem?.request_id;
    return { fact: fault.fact, host: fault.host, request: id === undefined ? '' : ` (request ${id})` };
  }
  return { fact: fault.message, host: fault instanceof NetworkFault ? fault.host : '', request: '' };
}

/** In UTC, as schedulers log; with the date when it is another day, with seconds when it is soon. */
function timeOfDay(atMs: number, nowMs: number): string {
  const text = new Date(Math.min(atMs, 8.64e15)).toISOString();
  const day = text.slice(0, 10) === new Date(nowMs).toISOString().slice(0, 10) ? '' : `${text.slice(0, 10)} `;
  return `${day}${text.slice(11, Math.abs(atMs - nowMs) < 120_000 ? 19 : 16)} UTC`;
}

const FIRST_MS = 500;
const LONGEST_MS = 30_000;

/**
 * Exponential backoff with full jitter: a random time between zero and a limit that doubles, so that clients
 * which failed together do not retry together. Never shorter than Retry-After: the service would reject the
 * request again.
 */
export function backoffMs(failuresInARow: number, retryAfterMs: number | null, random: () => number): number {
  const limitMs = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failuresInARow - 1, 20));
  const jitterMs = random() * limitMs;
  return retryAfterMs === null ? jitterMs : retryAfterMs + Math.min(jitterMs, 1000);
}
