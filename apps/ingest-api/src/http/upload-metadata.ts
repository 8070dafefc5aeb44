import type { RequestHandler } from 'express';
import { IngestError } from '../errors.ts';

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const CONTROL = /\p{C}/u;

/**
 * tus 1.0 §Upload-Metadata leaves open what the values are; @tus/server replaces what is no UTF-8, so that two
 * names become one, and PostgreSQL's jsonb takes no NUL. Here a value is printable text or the request is
 * refused. (The form, and that no key comes twice, @tus/server checks.)
 */
export const requireReadableMetadata: RequestHandler = (req, _res, next) => {
  const header = req.get('upload-metadata') ?? '';
  for (const pair of header.split(',')) {
    const [key = '', value = ''] = pair.trim().split(' ');
    if (isPrintable(value)) continue;
    throw new IngestError(
      'invalid_request',
      `The metadata ${JSON.stringify(key)} must be UTF-8 text without control characters, in base64.`,
    );
  }
  next();
};

function isPrintable(base64: string): boolean {
  try {
    return !CONTROL.test(utf8.decode(Buffer.from(base64, 'base64')));
  } catch {
    return false; // not UTF-8
  }
}
