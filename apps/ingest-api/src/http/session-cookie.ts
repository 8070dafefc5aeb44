import type { Request, Response } from 'express';
import { IngestError } from '../errors.ts';

const NAME = 'ingest_session';
const VALUE = new RegExp(`(?:^|;\\s*)${NAME}=([A-Za-z0-9_-]{1,200})(?:;|$)`);
const LASTS_MS = 12 * 60 * 60_000;

/** The token that the status page has signed in with, if any. */
export function sessionToken(req: Request): string | undefined {
  return VALUE.exec(req.headers.cookie ?? '')?.[1];
}

/** Out of reach of scripts, and never sent by another site's page. `Secure` wherever the page itself came by https. */
export function setSession(req: Request, res: Response, token: string): void {
  res.cookie(NAME, token, { ...attributes(req), maxAge: LASTS_MS });
}

export function clearSession(req: Request, res: Response): void {
  res.clearCookie(NAME, attributes(req));
}

function attributes(req: Request) {
  return {
    httpOnly: true,
    sameSite: 'strict',
    secure: (req.get('origin') ?? '').startsWith('https:'),
    path: '/',
  } as const;
}

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS']);

/** A cookie is sent by the browser unasked: what it may change must have been asked for by our own page. */
export function requireSameOrigin(req: Request): void {
  if (SAFE_METHODS.has(req.method)) return;
  if (req.get('sec-fetch-site') === 'same-origin') return;
  const origin = req.get('origin');
  if (origin !== undefined && URL.canParse(origin) && new URL(origin).host === req.get('host')) return;
  throw new IngestError(
    'forbidden',
    'A change that is signed in by cookie must come from the status page itself. Programs send "Authorization: Bearer TOKEN".',
  );
}
