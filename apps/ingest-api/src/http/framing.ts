import type { RequestHandler } from 'express';
import { IngestError } from '../errors.ts';

/** What RFC 9112 and RFC 9110 ask of a message before anything else of it is looked at, and Node leaves to us. */
export const requireGoodFraming: RequestHandler = (req, res, next) => {
  const hosts = req.rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host');
  // RFC 9112 §3.2. Node takes the first and is silent; a proxy that takes the last would have let in another request
  // than the one we see.
  if (hosts.length > 1 || (hosts.length === 0 && req.httpVersion === '1.1')) {
    res.set('Connection', 'close');
    throw new IngestError('invalid_request', `The request has ${hosts.length} headers Host; send one.`);
  }
  const coding = req.headers['transfer-encoding'];
  if (coding !== undefined && coding.trim().toLowerCase() !== 'chunked') {
    res.set('Connection', 'close'); // where its body ends, only its coding says
    throw new IngestError(
      'not_implemented',
      `The Transfer-Encoding ${JSON.stringify(coding.slice(0, 80))} is not known here; send "chunked", or a Content-Length.`,
    );
  }
  const { expect } = req.headers;
  if (expect !== undefined && req.httpVersion === '1.1') {
    // Whoever is answered without a 100 may or may not send the body: the next request could not be told from it.
    res.set('Connection', 'close');
    if (expect.toLowerCase() !== '100-continue')
      throw new IngestError('expectation_failed', 'The only Expect that is met here is "100-continue".');
  }
  next();
};
