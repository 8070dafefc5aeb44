import { readFileSync } from 'node:fs';

export type TokenSource = { file: string; from: string } | { value: string; from: string };

/**
 * The token of this moment: a file is read again for each request, so that a token can be replaced during a push of hours.
 * While the file is missing or half written, the token that was read before is used.
 */
export function currentToken(source: TokenSource | null, known: string): string {
  if (!source || !('file' in source)) return known;
  const now = readToken(source);
  return 'token' in now ? now.token : known;
}

/**
 * The text of the token, or the sentence that says why it is missing. A token is never an argument's value,
 * because arguments are seen by everyone in the process list.
 */
export function readToken(source: TokenSource | null): { token: string } | { fault: string } {
  if (!source) {
    return {
      fault:
        'There is no token: set UPLOADER_TOKEN, or name a file with --token-file or UPLOADER_TOKEN_FILE.',
    };
  }
  let text: string;
  if ('file' in source) {
    try {
      text = readFileSync(source.file, 'utf8');
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return { fault: `The token file of ${source.from} cannot be read: ${reason}.` };
    }
  } else {
    text = source.value;
  }
  const token = text.trim();
  // RFC 6750 §2.1: anything else would be cut or refused as a header, far from its cause.
  if (!/^[A-Za-z0-9\-._~+/]+=*$/.test(token)) {
    return { fault: `The token of ${source.from} is empty or holds characters that no token has.` };
  }
  return { token };
}
