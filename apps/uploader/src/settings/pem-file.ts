import { readFileSync } from 'node:fs';

/** The text of a PEM file. Throws a sentence's end, as all settings do. */
export function readPemFile(path: string): string {
  let text = '';
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    throw new Error('must be the path of a PEM file that can be read');
  }
  if (!text.includes('-----BEGIN ')) throw new Error('must be a PEM file (-----BEGIN …)');
  return text;
}
