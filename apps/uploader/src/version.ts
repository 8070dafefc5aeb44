import { readFileSync } from 'node:fs';

/** Put in by the build of the one-file forms, which have no package.json beside them. */
declare const UPLOADER_VERSION: string | undefined;

/** Otherwise from package.json, one folder above both src/ and dist/. */
export function uploaderVersion(): string {
  if (typeof UPLOADER_VERSION === 'string') return UPLOADER_VERSION;
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  const parsed: unknown = JSON.parse(text);
  if (parsed && typeof parsed === 'object' && 'version' in parsed) return String(parsed.version);
  return 'unknown';
}
