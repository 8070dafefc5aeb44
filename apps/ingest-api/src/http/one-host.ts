import type { RequestHandler } from 'express';
import { IngestError } from '../errors.ts';

/**
 * RFC 9112 §3.2: more than one Host is a 400. Node takes the first and is silent; a proxy that takes the last
 * would have let in another request than the one we see.
 */
export const requireOneHost: RequestHandler = (req, _res, next) => {
  const hosts = req.rawHeaders.filter((name, index) => index % 2 === 0 && name.toLowerCase() === 'host');
  if (hosts.length > 1)
    throw new IngestError('invalid_request', 'The request has more than one Host; send one.');
  next();
};
