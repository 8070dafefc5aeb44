import { ERROR_CODES, type ErrorCode, type FaultKind } from 'wire';
import * as z from 'zod';
import { OutOfTime, UploaderError } from '../errors.ts';
import { CONTINUES, type ExchangeResponse, NetworkFault, pause, type TimeLimit } from './exchange.ts';

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

/** The subject of the request: the same status means different things for a run and for an upload. */
export type Asked = 'run' | 'upload';

type Verdict =
  | { do: 'retry'; retryAfterMs: number | null }
  /** The upload's resource is gone: the run has to be declared again. */
  | { do: 'declare_again' }
  | { do: 'give_up'; kind: FaultKind; advice: string };

/**
 * Faults of certificates, of either side, last until somebody changes a setting. So do faults of the protocol (a port
 * that does not speak TLS), unless the service has answered before: then bytes were damaged on the way. Every other
 * fault of the network is worth another try: ECONNRESET, ECONNREFUSED, ETIMEDOUT, EPIPE, EAI_AGAIN, our own ESTALLED;
 * and ENOTFOUND and EHOSTUNREACH too, which name services and rolling nodes cause for minutes.
 */
const CERTIFICATE_CODE =
  /CERT|UNKNOWN_CA|^(UNABLE_TO_|CRL_|HOSTNAME_MISMATCH|INVALID_CA|INVALID_PURPOSE|ERR_OSSL_)/;
const TLS_PROTOCOL_CODE = /^(ERR_TLS_|ERR_SSL_|EPROTO$)/;

/** By status; the service's own codes say what a client does (`ERROR_CODES` of wire). */
const NEVER_RETRIED_5XX = [501, 505];
const RETRIED_4XX = [408, 423, 425, 429];
/** Of a proxy: no wait changes what it asks for. */
const LASTING = [407, 413];

const WRONG_ADDRESS = 'Check UPLOADER_URL: this does not look like the ingest service.';
const REDIRECT =
  'If this is the address of the service, set UPLOADER_URL to it, without /v1 and what follows.';
const methodRefused = (method: string) =>
  `The service itself has answered no ${method} of this command: a proxy in front of it refuses the method. Ask its operators to pass GET, HEAD, PUT, PATCH, POST and DELETE.`;
const PROXY_REFUSES =
  'The proxy does not connect to the service: ask its operators, or check HTTPS_PROXY, NO_PROXY and UPLOADER_URL.';

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

const ASKS_FOR_CREDENTIALS =
  'A proxy asks for credentials: give them in HTTPS_PROXY, with NODE_USE_ENV_PROXY=1.';

/**
 * For answers that are not the service's own: the address is wrong, or something in front of the service
 * answers.
 */
const NOT_OURS: Record<number, string> = {
  401: 'This is not the ingest service, or a proxy in front of it asks for its own credentials: check UPLOADER_URL and the proxy.',
  403: 'A proxy or firewall refuses the request, not the service: ask its operators, or check UPLOADER_URL.',
  407: ASKS_FOR_CREDENTIALS,
  413: 'A proxy in front of the service limits the size of a request: raise its limit (nginx: client_max_body_size), or lower --chunk-size.',
};

/**
 * The only place that decides what an error of the network or the service means by itself; `retrying` decides what several in
 * a row mean. null: another kind of error.
 *
 * @param isKnown the service itself has answered before: its address is right, and an answer of another server is a
 * fault of the network, which passes.
 */
export function judge(error: unknown, asked: Asked, isKnown: boolean): Verdict | null {
  if (error instanceof NetworkFault) return judgeNetwork(error, isKnown);
  if (!(error instanceof HttpFault)) return null;
  if (!error.isForeign) return judgeOurs(error, asked);
  const { status, retryAfterMs } = error;
  if (isRetriedOfOthers(status, isKnown)) return { do: 'retry', retryAfterMs };
  const advice = NOT_OURS[status] ?? (status >= 300 && status < 400 ? REDIRECT : WRONG_ADDRESS);
  return { do: 'give_up', kind: 'usage', advice };
}

function judgeNetwork({ code, proxyStatus }: NetworkFault, isKnown: boolean): Verdict {
  if (proxyStatus !== null && !isRetriedOfOthers(proxyStatus, isKnown)) {
    const advice = proxyStatus === 407 ? ASKS_FOR_CREDENTIALS : PROXY_REFUSES;
    return { do: 'give_up', kind: 'usage', advice };
  }
  if (!CERTIFICATE_CODE.test(code) && (isKnown || !TLS_PROTOCOL_CODE.test(code)))
    return { do: 'retry', retryAfterMs: null };
  const advice =
    'Check UPLOADER_URL, and --ca (or NODE_EXTRA_CA_CERTS) if the certificate is signed by your own authority.';
  return { do: 'give_up', kind: 'usage', advice };
}

function isRetriedOfOthers(status: number, isKnown: boolean): boolean {
  if (isMomentary(status)) return true;
  return isKnown && !LASTING.includes(status);
}

/** What proxies and firewalls answer to a method that they do not pass, whatever it asks for. */
const REFUSES_METHOD = [405, 501];
/** So do these, but they may also mean the address. */
const MAY_REFUSE_METHOD = [400, 401, 403, 404];
/** Tries of one request: a proxy that is being replaced may answer anything once. */
const MOST_REFUSALS = 5;
/** A page for the time in which the service is not there may be a 405 to PUT and PATCH. */
const REFUSED_FOR_MS = 60_000;

/** A proxy or firewall in front of the service does not take this request, whenever it is sent. */
export function isRefusedByProxy({ isForeign, status }: HttpFault): boolean {
  return isForeign && status >= 400 && !isMomentary(status) && !LASTING.includes(status);
}

/**
 * Counts the refusals in a row of a method of which the service itself has answered no request. `add` is true when they are
 * no matter of time: the service has answered requests of other methods before each of five, or they last for a minute.
 */
function countRefusals(faults: FaultLog, now: () => number): { add: (fault: HttpFault) => boolean } {
  let inARow = 0;
  let whileItAnswers = 0;
  let sinceMs = 0;
  let answersBefore = 0;
  return {
    add: ({ isForeign, status, method, retryAfterMs }) => {
      const isThere = faults.answers() > answersBefore;
      answersBefore = faults.answers();
      const isRefusal =
        isForeign &&
        retryAfterMs === null &&
        faults.answers(method) === 0 &&
        (REFUSES_METHOD.includes(status) || (isThere && MAY_REFUSE_METHOD.includes(status)));
      if (inARow === 0) sinceMs = now();
      inARow = isRefusal ? inARow + 1 : 0;
      whileItAnswers = isRefusal && isThere ? whileItAnswers + 1 : 0;
      return (
        whileItAnswers === MOST_REFUSALS || (inARow >= MOST_REFUSALS && now() - sinceMs >= REFUSED_FOR_MS)
      );
    },
  };
}

function isMomentary(status: number): boolean {
  return RETRIED_4XX.includes(status) || (status >= 500 && !NEVER_RETRIED_5XX.includes(status));
}

function judgeOurs(fault: HttpFault, asked: Asked): Verdict {
  const { status, problem } = fault;
  const action = actionOf(problem);
  const retry: Verdict = { do: 'retry', retryAfterMs: fault.retryAfterMs };
  // It took none of the bytes.
  if (status < 300) return retry;
  if (asked === 'upload' && (status === 404 || status === 410)) return { do: 'declare_again' };
  if (action === 'retry' || problem?.retryable === true || RETRIED_4XX.includes(status)) return retry;
  if (isMomentary(status) && problem?.retryable !== false) return retry;
  // tus 1.0 §PATCH: 409 is an offset that is not the server's; the next try asks for it first.
  if (asked === 'upload' && status === 409) return retry;
  if (problem?.code === 'unknown_address') {
    return { do: 'give_up', kind: 'usage', advice: 'Check the path in UPLOADER_URL.' };
  }
  if (asked === 'upload' && status === 400)
    return { do: 'give_up', kind: 'bug', advice: 'This is a bug of the uploader.' };
  if (status === 404) {
    const advice = 'The model is not known, or the token does not cover it.';
    return { do: 'give_up', kind: 'not_allowed', advice };
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

/** The answer of the service that ended the tries; null when something else did. */
export function refusalOf(error: unknown): HttpFault | null {
  const cause = error instanceof UploaderError ? error.cause : null;
  return cause instanceof HttpFault && !cause.isForeign ? cause : null;
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
  /** In ms. */
  now?: () => number;
};

/**
 * Tries until it succeeds, the fault is permanent, or the time is over (an UploaderError then says so).
 * A fault that this module does not know, and 'declare_again', are thrown as they are.
 */
export async function retrying<T>(attempt: () => Promise<T>, options: RetryOptions): Promise<T> {
  let failures = 0;
  const { faults } = options;
  const refusals = countRefusals(faults, options.now ?? Date.now);
  for (;;) {
    let fault: Error;
    let retryAfterMs: number | null;
    try {
      const result = await attempt();
      if (failures > 0) faults.ended(options.what);
      return result;
    } catch (error) {
      if (error instanceof HttpFault && !error.isForeign) faults.answered(error.method);
      const verdict = judge(error, options.asked, faults.answers() > 0);
      if (!verdict || verdict.do === 'declare_again' || !(error instanceof Error)) throw error;
      if (verdict.do === 'give_up') throw givenUp(error, verdict);
      // A proxy that answers before it has read the body, and closes, is met as either.
      if (error instanceof HttpFault && refusals.add(error)) {
        faults.happened(options.what, error, null);
        throw givenUp(error, { do: 'give_up', kind: 'usage', advice: methodRefused(error.method) });
      }
      fault = error;
      retryAfterMs = verdict.retryAfterMs;
    }
    failures = options.madeProgress?.() ? 1 : failures + 1;
    const pauseMs = backoffMs(failures, retryAfterMs, options.random ?? Math.random);
    const leftMs = options.limit.remainingMs();
    faults.happened(options.what, fault, pauseMs < leftMs ? Date.now() + leftMs : null);
    if (pauseMs >= leftMs) throw outOfTime(options.limit, fault, failures);
    try {
      await pause(pauseMs, options.limit.signal);
    } catch (error) {
      throw error instanceof OutOfTime ? outOfTime(options.limit, fault, failures) : error;
    }
  }
}

function outOfTime({ over }: TimeLimit, lastFault: Error, tries: number): UploaderError {
  const sender =
    lastFault instanceof HttpFault && lastFault.isForeign && lastFault.status >= 300
      ? ' The service itself did not send this answer: a proxy did, or another server at its address.'
      : '';
  return new UploaderError(
    'try_again',
    `${over} The last fault was, in ${tries} ${tries === 1 ? 'try' : 'tries'}: ${lastFault.message}.${sender} ${CONTINUES}`,
    { cause: lastFault },
  );
}

export type FaultLog = {
  /** The service itself has answered a request of this method. */
  answered: (method: string) => void;
  /** How many requests of this method, or of all, it has answered. While there are none, its address may be wrong. */
  answers: (method?: string) => number;
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
  const answers = new Map<string, number>();
  let allAnswers = 0;
  return {
    answered: (method) => {
      answers.set(method, (answers.get(method) ?? 0) + 1);
      allAnswers += 1;
    },
    answers: (method) => (method === undefined ? allAnswers : (answers.get(method) ?? 0)),
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
