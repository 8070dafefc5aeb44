import { ERROR_CODES, type ErrorCode, type FaultKind } from 'wire';
import { UploaderError } from '../errors.ts';
import { NetworkFault } from './exchange.ts';
import { HttpFault, type Problem } from './http-fault.ts';

/** The subject of the request: the same status means different things for a run and for an upload. */
export type Asked = 'run' | 'upload';

export type Verdict =
  | { do: 'retry'; retryAfterMs: number | null }
  /** The upload's resource is gone: the run has to be declared again. */
  | { do: 'declare_again' }
  | {
      do: 'give_up';
      kind: FaultKind;
      /** Empty where the fault itself says what to do. */
      advice: string;
    };

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
const PROXY_REFUSES =
  'The proxy does not connect to the service: ask its operators, or check HTTPS_PROXY, NO_PROXY and UPLOADER_URL.';

/** For an answer of the service that names no code of wire's table. */
const KIND_OF_STATUS: Record<number, FaultKind> = {
  401: 'not_allowed',
  403: 'not_allowed',
  404: 'not_allowed',
  409: 'data',
  415: 'bug',
  422: 'data',
};
const OTHER_TOKEN = 'Set a token that allows this in UPLOADER_TOKEN, UPLOADER_TOKEN_FILE or --token-file.';
const OUR_BUG = 'This is a bug of the uploader, or a proxy changes its requests.';
const ASK_OPERATORS = 'Ask the operators of the service.';

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

/** A proxy or firewall in front of the service does not take this request, whenever it is sent. */
export function isRefusedByProxy({ isForeign, status }: HttpFault): boolean {
  return isForeign && status >= 400 && !isMomentary(status) && !LASTING.includes(status);
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
  // What the uploader sends to an upload is not the user's.
  const isOurs = asked === 'upload' && status === 400;
  const kind = isOurs ? 'bug' : (action ?? KIND_OF_STATUS[status] ?? (status >= 500 ? 'bug' : 'usage'));
  return { do: 'give_up', kind, advice: adviceOn(fault, kind, action !== undefined) };
}

/** The service's own sentence says what to do, except where a setting of the uploader, or the uploader itself, must change. */
function adviceOn({ status, problem }: HttpFault, kind: FaultKind, isKnownCode: boolean): string {
  if (problem?.code === 'unknown_address') return 'Check the path in UPLOADER_URL.';
  if (status === 401 || status === 403) return OTHER_TOKEN;
  if (kind === 'bug' && (isKnownCode || status < 500)) return OUR_BUG;
  return problem?.detail === undefined || status >= 500 ? ASK_OPERATORS : '';
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
  return new UploaderError(verdict.kind, `${message.replace(/\.$/, '')}. ${verdict.advice}`.trimEnd(), {
    cause: error,
  });
}

/** The answer of the service that ended the tries; null when something else did. */
export function refusalOf(error: unknown): HttpFault | null {
  const cause = error instanceof UploaderError ? error.cause : null;
  return cause instanceof HttpFault && !cause.isForeign ? cause : null;
}
