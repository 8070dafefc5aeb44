import { readFileSync } from 'node:fs';

/** From package.json, which lies one folder above both src/ and dist/. */
export function uploaderVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  const parsed: unknown = JSON.parse(text);
  if (parsed && typeof parsed === 'object' && 'version' in parsed) return String(parsed.version);
  return 'unknown';
}
