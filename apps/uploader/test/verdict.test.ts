import { expect } from 'chai';
import { ERROR_CODES, EXIT_CODE_OF } from 'wire';
import type { UploaderError } from '../src/errors.ts';
import { NetworkFault } from '../src/http/exchange.ts';
import { createFaultLog } from '../src/http/fault-log.ts';
import { HttpFault, readRetryAfterMs } from '../src/http/http-fault.ts';
import { backoffMs, retrying } from '../src/http/retry.ts';
import { type Asked, judge } from '../src/http/verdict.ts';
import { worstExitCode } from '../src/results.ts';

function answer(status: number, problem?: object, headers: Record<string, string> = {}): HttpFault {
  return new HttpFault({
    method: 'PUT',
    url: 'http://h/x',
    status,
    headers: { 'content-type': problem ? 'application/problem+json' : 'text/html', ...headers },
    body: problem ? JSON.stringify({ request_id: 'r1', ...problem }) : '<html><h1>Page</h1></html>',
  });
}

/** RFC 9457 too, and not the ingest service's. */
const foreign = {
  method: 'PUT',
  url: 'http://h/x',
  headers: { 'content-type': 'application/problem+json' },
  body: '{"type":"about:blank","title":"Not Found","status":404,"instance":"/x"}',
};

function verdictOf(error: Error, asked: Asked = 'run', isKnown = asked === 'upload'): string | number {
  const verdict = judge(error, asked, isKnown);
  if (!verdict) return 'unknown';
  return verdict.do === 'give_up' ? EXIT_CODE_OF[verdict.kind] : verdict.do;
}

describe('what a fault means', () => {
  it('is another try for faults of the network', () => {
    for (const code of [
      'ECONNRESET',
      'ECONNREFUSED',
      'ECONNABORTED',
      'ETIMEDOUT',
      'EPIPE',
      'EAI_AGAIN',
      'ENOTFOUND',
      'ENETUNREACH',
      'EHOSTUNREACH',
      'ESTALLED',
      'HPE_INVALID_CONSTANT',
      'UNKNOWN',
    ]) {
      expect(verdictOf(new NetworkFault(code, 'GET', 'http://h', code)), code).to.equal('retry');
    }
  });

  it('is what the table of error codes says, for each code of the service', () => {
    for (const [code, { status, client }] of Object.entries(ERROR_CODES)) {
      const retryable = client === 'retry' || client === 'declare_again';
      const asked = client === 'declare_again' ? 'upload' : 'run';
      const expected = retryable ? client : EXIT_CODE_OF[client];
      // Also when the answer lost the flag on its way.
      for (const problem of [{ code, retryable }, { code }])
        expect(verdictOf(answer(status, problem), asked), code).to.equal(expected);
    }
  });

  it('is the configuration for faults of TLS', () => {
    for (const code of [
      'CERT_HAS_EXPIRED',
      'DEPTH_ZERO_SELF_SIGNED_CERT',
      'SELF_SIGNED_CERT_IN_CHAIN',
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
      'ERR_TLS_CERT_ALTNAME_INVALID',
      'ERR_SSL_WRONG_VERSION_NUMBER',
      'EPROTO',
    ]) {
      expect(verdictOf(new NetworkFault(code, 'GET', 'https://h', code)), code).to.equal(2);
    }
  });

  it('is another try for damaged bytes of TLS once the service has answered, and never for a certificate', () => {
    for (const [code, expected] of [
      ['ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC', 'retry'],
      ['ERR_SSL_SSL/TLS_ALERT_BAD_RECORD_MAC', 'retry'],
      ['ERR_SSL_TLSV1_ALERT_INTERNAL_ERROR', 'retry'],
      ['ERR_SSL_WRONG_VERSION_NUMBER', 'retry'],
      ['ERR_TLS_HANDSHAKE_TIMEOUT', 'retry'],
      ['EPROTO', 'retry'],
      ['CERT_HAS_EXPIRED', 2],
      ['DEPTH_ZERO_SELF_SIGNED_CERT', 2],
      ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 2],
      ['HOSTNAME_MISMATCH', 2],
      ['ERR_TLS_CERT_ALTNAME_INVALID', 2],
      ['ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED', 2],
      ['ERR_SSL_SSL/TLS_ALERT_BAD_CERTIFICATE', 2],
      ['ERR_SSL_TLSV1_ALERT_UNKNOWN_CA', 2],
    ] as const) {
      expect(verdictOf(new NetworkFault(code, 'GET', 'https://h', code), 'run', true), code).to.equal(
        expected,
      );
    }
  });

  it('is, when a forward proxy refuses CONNECT, that of the same answer to a request', () => {
    const refused = (statusCode?: number) => {
      const cause = Object.assign(new Error('No tunnel via http://user:secret@proxy:3128/'), {
        code: 'ERR_PROXY_TUNNEL',
        ...(statusCode === undefined ? {} : { statusCode }),
      });
      return NetworkFault.from(cause, 'PUT', 'https://h/x') as NetworkFault;
    };
    for (const status of [400, 403, 404, 405, 407, 501, 505, Number.NaN])
      expect(verdictOf(refused(status)), String(status)).to.equal(2);
    for (const status of [408, 429, 500, 502, 503, 504])
      expect(verdictOf(refused(status)), String(status)).to.equal('retry');
    expect(verdictOf(refused())).to.equal('retry');
    expect(verdictOf(refused(403), 'run', true)).to.equal('retry');
    expect(verdictOf(refused(407), 'run', true)).to.equal(2);
    expect(refused(403).message).to.equal('PUT https://h/x got no answer: No tunnel via http://proxy:3128/');
  });

  it('is another try for what a service or proxy says of a moment', () => {
    for (const status of [408, 423, 425, 429, 500, 502, 503, 504, 507]) {
      expect(verdictOf(answer(status)), String(status)).to.equal('retry');
      expect(verdictOf(answer(status), 'upload'), String(status)).to.equal('retry');
    }
    expect(verdictOf(answer(409, { retryable: true }))).to.equal('retry');
  });

  it('is an end, with the code that says who must act, for the rest', () => {
    const problem = { detail: 'x' };
    const ends: Array<[HttpFault, Asked, string | number]> = [
      [answer(400, problem), 'run', 2],
      [answer(400, problem), 'upload', 1],
      [answer(401, problem), 'run', 77],
      [answer(403, problem), 'upload', 77],
      [answer(404, problem), 'run', 77],
      [answer(404, { code: 'unknown_address' }), 'run', 2],
      [answer(404), 'run', 2],
      [answer(404, problem), 'upload', 'declare_again'],
      [answer(410, { retryable: true }), 'upload', 'declare_again'],
      [answer(409, problem), 'run', 65],
      [answer(409, problem), 'upload', 'retry'],
      [answer(413), 'upload', 2],
      [answer(415, problem), 'upload', 1],
      [answer(301), 'run', 2],
      [answer(200), 'run', 2],
      [answer(501, problem), 'run', 1],
      [answer(500, { retryable: false }), 'run', 1],
    ];
    // Of a proxy, or of a server that is another one: no status of theirs is a fault of the token, the data or ours.
    for (const status of [
      200, 201, 204, 301, 400, 401, 403, 404, 405, 407, 409, 411, 413, 415, 422, 501, 505,
    ]) {
      ends.push([answer(status), 'run', 2]);
      ends.push([answer(status, undefined, { 'content-type': 'application/json' }), 'run', 2]);
      ends.push([new HttpFault({ ...foreign, status }), 'run', 2]);
    }
    const head = { method: 'HEAD', url: 'http://h/x', body: '' };
    const tus = { 'tus-resumable': '1.0.0' };
    ends.push([new HttpFault({ ...head, status: 404, headers: tus }), 'upload', 'declare_again']);
    ends.push([new HttpFault({ ...head, status: 403, headers: tus }), 'upload', 77]);
    for (const [fault, asked, expected] of ends) {
      expect(verdictOf(fault, asked), `${fault.status} on ${asked}`).to.equal(expected);
    }
    expect(verdictOf(new TypeError('x'))).to.equal('unknown');
  });

  it('is another try for an answer of another server once the service has answered', () => {
    for (const status of [
      200, 201, 204, 301, 302, 400, 401, 403, 404, 405, 409, 410, 411, 415, 422, 501, 505,
    ]) {
      for (const asked of ['run', 'upload'] as const) {
        expect(verdictOf(answer(status), asked, true), `${status} on ${asked}`).to.equal('retry');
        const head = {
          ...foreign,
          method: 'HEAD',
          headers: { 'content-type': 'text/html' },
          body: '',
          status,
        };
        expect(verdictOf(new HttpFault(head), asked, true), `${status} to HEAD`).to.equal('retry');
      }
    }
    // No wait changes these.
    for (const status of [407, 413]) expect(verdictOf(answer(status), 'upload'), String(status)).to.equal(2);
  });

  it('names the target of a redirect, without its query', () => {
    for (const [location, named] of [
      ['https://b.example/v1/x?session=1', 'https://b.example/v1/x'],
      ['/login#top', 'http://h/login'],
      ['http://', 'http://'],
    ])
      expect(answer(302, undefined, { location: location ?? '' }).message).to.equal(
        `PUT http://h/x answered 302: redirect to ${named}`,
      );
  });

  it('describes a page by its words and a problem by its sentence', () => {
    expect(answer(502).message).to.equal('PUT http://h/x answered 502: Page');
    expect(answer(400, { detail: 'No.', request_id: 'r1' }).message).to.equal(
      'PUT http://h/x answered 400: No (request r1)',
    );
  });
});

describe('the faults that are counted at the end', () => {
  it('are those that happened again, and that no result names', () => {
    for (const fault of [
      answer(507, { detail: 'quota' }),
      new NetworkFault('ECONNRESET', 'PUT', 'http://h/x', 'cut'),
    ]) {
      const faults = createFaultLog(() => {});
      faults.happened('m/1', fault, null);
      expect(faults.uncounted(''), 'once').to.deep.equal([]);
      faults.happened('m/1', fault, null);
      expect(faults.uncounted('').join()).to.match(/^m\/1: .*: 2 times in all$/);
      expect(faults.uncounted(`Out of time. The last fault was: ${fault.message}.`)).to.deep.equal([]);
    }
  });
});

describe('the pause before another try', () => {
  it('doubles up to 30 s, anywhere below that', () => {
    const atMost = [1, 2, 3, 7, 8, 500].map((failures) => backoffMs(failures, null, () => 1));
    expect(atMost).to.deep.equal([500, 1000, 2000, 30_000, 30_000, 30_000]);
    expect(backoffMs(5, null, () => 0)).to.equal(0);
  });

  it('is never shorter than Retry-After, as seconds or as a date', () => {
    expect(backoffMs(1, 2000, () => 0)).to.equal(2000);
    expect(readRetryAfterMs('120', 0)).to.equal(120_000);
    expect(readRetryAfterMs('Thu, 01 Jan 1970 00:00:10 GMT', 4000)).to.equal(6000);
    expect(readRetryAfterMs('soon', 0)).to.equal(null);
    expect(readRetryAfterMs(undefined, 0)).to.equal(null);
  });
});

describe('the end of the time', () => {
  it('names the limit that was in force, and who sent the last answer', async () => {
    const signal = new AbortController().signal;
    for (const [fault, sender] of [
      [
        answer(405),
        ' The service itself did not send this answer: a proxy did, or another server at its address.',
      ],
      [answer(503, { detail: 'Page' }), ''],
    ] as const) {
      const faults = createFaultLog(() => {});
      faults.answered('PUT');
      const limit = { signal, remainingMs: () => 0, over: 'Out of time: 60 s.' };
      const ended = retrying(() => Promise.reject(fault), { asked: 'run', limit, faults, what: 'm/1' });
      expect(await ended.catch((error: Error) => error.message)).to.equal(
        `Out of time: 60 s. The last fault was, in 1 try: ${fault.message}.${sender} Run the same command again: it continues from here.`,
      );
    }
  });
});

describe('a proxy that refuses a method, or what a request contains', () => {
  const limit = { signal: new AbortController().signal, remainingMs: () => 1e9, over: 'Out of time.' };

  /**
   * Meets these answers to PATCH, or cuts, then succeeds.
   *
   * @param answered what the service itself has answered before.
   * @param answersHead whether it answers a HEAD before each PATCH.
   * @param progressAt the try during which bytes were acknowledged.
   * @returns the exit code and the number of tries.
   */
  async function meet(
    answers: readonly (number | 'cut')[],
    answered: readonly string[],
    { answersHead = true, progressAt = 1 } = {},
  ) {
    const said: string[] = [];
    const faults = createFaultLog((sentence) => said.push(sentence));
    for (const method of answered) faults.answered(method);
    let tries = 0;
    const attempt = async () => {
      if (answersHead) faults.answered('HEAD');
      const answer = answers[tries++];
      if (answer === 'cut') throw new NetworkFault('ECONNRESET', 'PATCH', 'http://h', 'closed');
      if (answer !== undefined) throw new HttpFault({ ...foreign, method: 'PATCH', status: answer });
    };
    // Each try ten seconds after the one before.
    const options = {
      asked: 'upload',
      limit,
      faults,
      what: 'm/1',
      random: () => 0,
      madeProgress: () => tries === progressAt,
      now: () => tries * 10_000,
    } as const;
    const code = await retrying(attempt, options).then(
      () => 0,
      (error: UploaderError) => EXIT_CODE_OF[error.kind],
    );
    if (code === 2)
      expect(faults.uncounted('').join('\n')).to.match(/ answered \d+: .*: (5|7|61) times in all$/m);
    return { code, tries };
  }

  const nine = (answer: number) => Array<number>(9).fill(answer);

  it('is the configuration after five answers, if the service has answered none of that method', async () => {
    for (const status of [400, 401, 403, 404, 405, 501]) {
      expect(await meet(nine(status), ['PUT']), `${status}`).to.deep.equal({ code: 2, tries: 5 });
      expect(await meet(nine(status), ['PUT', 'PATCH'])).to.deep.equal({ code: 0, tries: 10 });
      expect(await meet(nine(status).with(4, 502), ['PUT'])).to.deep.equal({ code: 0, tries: 10 });
      expect(await meet(nine(status).slice(0, 4), ['PUT'])).to.deep.equal({ code: 0, tries: 5 });
    }
    for (const status of [200, 302, 410, 502])
      expect(await meet(nine(status), ['PUT']), `${status}`).to.deep.equal({ code: 0, tries: 10 });
  });

  it('is met as cut connections, too, when it does not read the body', async () => {
    const answers = nine(405).flatMap((status) => ['cut', status, 'cut'] as const);
    expect(await meet(answers, ['PUT'])).to.deep.equal({ code: 2, tries: 14 });
    expect(await meet(Array(30).fill('cut'), ['PUT'])).to.deep.equal({ code: 0, tries: 31 });
  });

  it('is not what answers while the service answers nothing, unless the answer lasts and can mean nothing else', async () => {
    for (const status of [400, 401, 403, 404])
      expect(await meet(nine(status), ['PUT'], { answersHead: false })).to.deep.equal({ code: 0, tries: 10 });
    for (const status of [405, 501]) {
      expect(await meet(nine(status), ['PUT'], { answersHead: false })).to.deep.equal({ code: 2, tries: 7 });
      expect(await meet(nine(status).slice(0, 6), ['PUT'], { answersHead: false })).to.deep.equal({
        code: 0,
        tries: 7,
      });
    }
  });

  it('is the configuration after twenty answers and ten minutes, if the service answers that method otherwise', async () => {
    const eighty = (answer: number) => Array<number>(80).fill(answer);
    for (const status of [400, 401, 403, 404, 405, 501]) {
      const met = (answers: readonly number[], options = {}) => meet(answers, ['PUT', 'PATCH'], options);
      expect(await met(eighty(status)), `${status}`).to.deep.equal({ code: 2, tries: 61 });
      expect(await met(eighty(status), { progressAt: 30 })).to.deep.equal({ code: 0, tries: 81 });
      expect(await met(eighty(status), { answersHead: false })).to.deep.equal({ code: 0, tries: 81 });
      expect(await met(eighty(status).with(40, 502))).to.deep.equal({ code: 0, tries: 81 });
    }
    for (const status of [200, 302, 410, 502])
      expect(await meet(eighty(status), ['PUT', 'PATCH'])).to.deep.equal({ code: 0, tries: 81 });
  });
});

describe('the exit code of several runs', () => {
  it('is 75 only when the same command again is all that is needed', () => {
    expect(worstExitCode([0, 75, 0])).to.equal(75);
    expect(worstExitCode([75, 65])).to.equal(65);
    expect(worstExitCode([66, 65, 77])).to.equal(77);
    expect(worstExitCode([143, 1, 75])).to.equal(143);
    expect(worstExitCode([0, 0])).to.equal(0);
  });
});
