import type { S3ClientConfig } from '@aws-sdk/client-s3';
import { defaultProvider } from '@aws-sdk/credential-provider-node';

/** Credentials in a file may be replaced at any time, so those without an end are read again each minute. */
const READ_CREDENTIALS_EVERY_MS = 60_000;
/** Credentials with an end are renewed before it. */
const RENEW_BEFORE_MS = 5 * 60_000;
/** Failed requests do not read them more often than this. */
const READ_CREDENTIALS_AGAIN_MS = 2_000;

/** The credentials of the usual chain, as they are now: also when they were replaced, or have expired, while this runs. */
export class CurrentCredentials {
  #reading: ReturnType<ReturnType<typeof defaultProvider>> | undefined;
  #readMs = 0;
  #endsMs: number | undefined;

  /** Marked as `memoized`, or else the SDK keeps the first ones. */
  readonly provider: NonNullable<S3ClientConfig['credentials']> = Object.assign(() => this.#current(), {
    memoized: true,
  });

  /** To be called when the server may have refused them. */
  forget(): void {
    if (Date.now() - this.#readMs >= READ_CREDENTIALS_AGAIN_MS) this.#reading = undefined;
  }

  #current() {
    const isOld = Date.now() - this.#readMs >= READ_CREDENTIALS_EVERY_MS;
    const endsLater = this.#endsMs !== undefined && this.#endsMs - Date.now() > RENEW_BEFORE_MS;
    if (this.#reading === undefined || (isOld && !endsLater)) {
      const reading = defaultProvider({ ignoreCache: true })();
      this.#reading = reading;
      this.#readMs = Date.now();
      this.#endsMs = undefined;
      reading.then(
        ({ expiration }) => {
          this.#endsMs = expiration?.getTime();
        },
        () => {
          if (this.#reading === reading) this.#reading = undefined;
        },
      );
    }
    return this.#reading;
  }
}
