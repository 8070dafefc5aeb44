import { UploaderError } from '../uploader-error.ts';
import { printable } from './names.ts';

const REASONS: Record<string, string> = {
  ENOENT: 'it is not there',
  EACCES: 'this user may not read it',
  EPERM: 'this user may not read it',
  ENOTDIR: 'a part of its path is not a folder',
  ELOOP: 'its symbolic links lead in a circle',
  EIO: 'the disk reports a read error',
  ESTALE: 'its network file system has lost it (ESTALE); it was removed or replaced on the server',
};

/** A file system error, as the end of a sentence. */
export function unreadableReason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : null;
  const reason = (code && REASONS[code]) ?? (error instanceof Error ? error.message : String(error));
  return `it cannot be read: ${reason}`;
}

export function unreadableSource(path: string, error: unknown): UploaderError {
  const reason = unreadableReason(error).replace(/^it /, '');
  return new UploaderError('source', `${printable(path)} ${reason}.`, { cause: error });
}

export function changedSource(path: string): UploaderError {
  return new UploaderError(
    'source',
    `${printable(path)} changed while it was pushed. Push again when whatever writes it has finished.`,
  );
}
