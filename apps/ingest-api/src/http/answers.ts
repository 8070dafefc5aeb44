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

/**
 * For answers that read much of the database: however many ask at once, one is being made, and one more for all who came
 * meanwhile. So nobody is answered with what was true before they asked.
 *
 * @param make is given the key; callers with the same key share.
 */
export function sharedAnswer<T>(make: (key: string) => Promise<T>): (key: string) => Promise<T> {
  const running = new Map<string, Promise<T>>();
  const waiting = new Map<string, Promise<T>>();

  const begin = (key: string): Promise<T> => {
    waiting.delete(key);
    const answer = make(key).finally(() => running.delete(key));
    running.set(key, answer);
    return answer;
  };

  return (key) => {
    const before = running.get(key);
    if (before === undefined) return begin(key);
    const known = waiting.get(key);
    if (known !== undefined) return known;
    const next = before.then(
      () => begin(key),
      () => begin(key), // whoever asked for that one hears why it failed
    );
    waiting.set(key, next);
    return next;
  };
}
