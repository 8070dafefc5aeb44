import { createHash } from 'node:crypto';

/** One file of a manifest, as its sender computed it from the source. */
export interface ManifestFile {
  readonly name: string;
  readonly bytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
  /** Newlines, plus one when the last line lacks it. */
  readonly lines: number;
}

/** A revision's identity: sha256 over its files in the order of their names. */
export function manifestDigest(files: readonly ManifestFile[]): Buffer {
  const hash = createHash('sha256');
  for (const file of [...files].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    hash.update(JSON.stringify([file.name, file.bytes, file.sha256, file.lines]));
  }
  return hash.digest();
}
