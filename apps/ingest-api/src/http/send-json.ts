import { createHash } from 'node:crypto';
import type { Request, Response } from 'express';

/** Answers JSON with an ETag, or 304 when the caller has it already (RFC 9110 §13.1.2). Never kept by a cache unasked. */
export function sendJson(req: Request, res: Response, body: unknown): void {
  const text = JSON.stringify(body);
  const etag = `W/"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"`;
  res.set('ETag', etag).set('Cache-Control', 'private, no-cache');
  if (asked(req).includes(etag)) res.status(304).end();
  else res.type('application/json').send(text);
}

function asked(req: Request): readonly string[] {
  return (req.get('if-none-match') ?? '').split(',').map((tag) => tag.trim());
}
