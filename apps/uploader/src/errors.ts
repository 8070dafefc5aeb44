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
