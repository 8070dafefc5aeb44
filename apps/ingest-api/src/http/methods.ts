import { type RequestHandler, Router } from 'express';
import { IngestError } from '../errors.ts';
import { OPERATIONS } from './openapi/operations.ts';
import { PAGE_ADDRESSES } from './page-routes.ts';

/**
 * 405, with the methods that the address has, before anything else of a request is looked at. They come from the table
 * of the OpenAPI document, which a test holds against the routes.
 */
export function requireKnownMethod(): Router {
  const methods = new Map<string, Set<string>>();
  const known = [...OPERATIONS, ...PAGE_ADDRESSES.map((path) => ({ method: 'get', path }))];
  for (const { method, path } of known) {
    const ofPath = methods.get(path) ?? new Set();
    ofPath.add(method.toUpperCase());
    if (method === 'get') ofPath.add('HEAD'); // as Express answers it
    methods.set(path, ofPath);
  }
  const router = Router();
  for (const [path, ofPath] of methods) router.all(path, oneOf(ofPath));
  return router;
}

function oneOf(methods: ReadonlySet<string>): RequestHandler {
  const allowed = [...methods].sort().join(', ');
  return (req, res, next) => {
    if (methods.has(req.method)) return next();
    res.set('Allow', allowed);
    throw new IngestError('method_not_allowed', `${req.method} is not allowed here; use one of ${allowed}.`);
  };
}
