import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

/** A folder of this test alone, gone after it. Files in it are named by path below it. */
export function makeScratch(): {
  path: string;
  write: (name: string, content: string | Uint8Array) => string;
  remove: () => void;
} {
  const path = mkdtempSync(join(tmpdir(), 'uploader-test-'));
  return {
    path,
    write: (name, content) => {
      const file = join(path, name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, content);
      return file;
    },
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
}

/** Score lines of about this many bytes. */
export function scoreLines(bytes: number, firstKey = 0): string {
  const count = Math.ceil(bytes / 40);
  return Array.from(
    { length: count },
    (_, index) => `{ "pk": "${firstKey + index + 1e9}", "score": "0.5" }\n`,
  ).join('');
}
