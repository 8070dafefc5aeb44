import type { FaultKind } from './exit-codes.ts';

/** A fault with its sentence: what happened, to what, and what to do next. Its kind decides the exit code. */
export class UploaderError extends Error {
  override readonly name = 'UploaderError';
  readonly kind: FaultKind;

  constructor(kind: FaultKind, message: string, options?: { cause: unknown }) {
    super(message, options);
    this.kind = kind;
  }
}

/** The process was told to stop. Nothing is lost: what the service has acknowledged stays with it. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly signalName: 'SIGINT' | 'SIGTERM';

  constructor(signalName: 'SIGINT' | 'SIGTERM') {
    super(`Stopped by ${signalName}. It is safe to run the same command again: it goes on from there.`);
    this.signalName = signalName;
  }
}

/** --max-duration is over. */
export class OutOfTime extends Error {
  override readonly name = 'OutOfTime';
}

/** Anything thrown, as a fault with a kind: what nobody foresaw is a bug of ours. */
export function asUploaderError(error: unknown): UploaderError {
  if (error instanceof UploaderError) return error;
  if (error instanceof OutOfTime) return new UploaderError('try_again', error.message, { cause: error });
  const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new UploaderError('bug', `This is a bug of the uploader, please report it: ${detail}`, {
    cause: error,
  });
}
