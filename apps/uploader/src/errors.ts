import type { FaultKind } from 'wire';

/** A fault with its sentence: what happened, to what, and what to do next. Its kind decides the exit code. */
export class UploaderError extends Error {
  override readonly name = 'UploaderError';
  readonly kind: FaultKind;

  constructor(kind: FaultKind, message: string, options?: { cause: unknown }) {
    super(message, options);
    this.kind = kind;
  }
}

/** A signal stopped the process. Nothing is lost: the service keeps what it acknowledged. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly signalName: 'SIGINT' | 'SIGTERM';

  constructor(signalName: 'SIGINT' | 'SIGTERM') {
    super(`Stopped by ${signalName}. Run the same command again: it continues from here.`);
    this.signalName = signalName;
  }
}

/** --max-duration is over. */
export class OutOfTime extends Error {
  override readonly name = 'OutOfTime';
}

/** Anything thrown, as a fault with a kind: what the code does not expect is a bug of the uploader. */
export function asUploaderError(error: unknown): UploaderError {
  if (error instanceof UploaderError) return error;
  if (error instanceof OutOfTime) return new UploaderError('try_again', error.message, { cause: error });
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new UploaderError('bug', `This is a bug of the uploader, please report it: ${detail}`, {
    cause: error,
  });
}

const REASONS: Record<string, string> = {
  ENOENT: 'it does not exist',
  EACCES: 'this user may not read it',
  EPERM: 'this user may not read it',
  ENOTDIR: 'a part of its path is not a folder',
  EISDIR: 'it is a folder',
  ELOOP: 'its symbolic links form a loop',
  EIO: 'the disk reports a read error',
  ESTALE: 'its network file system has lost it (ESTALE); it was removed or replaced on the server',
};

/** A file system error, as the end of a sentence. */
export function unreadableReason(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : null;
  const reason = (code && REASONS[code]) ?? (error instanceof Error ? error.message : String(error));
  return `it cannot be read: ${reason}`;
}
