import { z } from 'zod';

const atLeastOne = z.coerce.number().int().positive();
const path = z.string().min(1);

/** What keeps hostile or broken clients off: read from the same environment as everything else. */
export const GUARD_VARIABLES = {
  INGEST_RATE_PER_MINUTE: atLeastOne.default(30_000),
  INGEST_FAILED_LOGINS_PER_MINUTE: atLeastOne.default(300),
  INGEST_MAX_CONNECTIONS: atLeastOne.default(1_000),
  INGEST_MIN_BYTES_PER_SECOND: z.coerce.number().int().min(0).default(1_024),
  INGEST_MAX_OPEN_UPLOADS: atLeastOne.default(250_000),
  INGEST_MAX_TOKEN_BYTES: atLeastOne.default(1024 ** 4),
  INGEST_TRUSTED_PROXIES: z
    .string()
    .default('')
    .transform((text) => text.split(',').flatMap((part) => part.trim() || []))
    .pipe(z.array(z.union([z.cidrv4(), z.cidrv6(), z.ipv4(), z.ipv6()], 'must be addresses or CIDR blocks'))),
  INGEST_TLS_CERT_FILE: path.optional(),
  INGEST_TLS_KEY_FILE: path.optional(),
  INGEST_TLS_CLIENT_CA_FILE: path.optional(),
};

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  /** With it, a client must show a certificate of this authority before it may say anything. */
  readonly clientCaFile: string | undefined;
}

export interface GuardConfig {
  /** Requests of one token. */
  readonly ratePerMinute: number;
  /** Requests of one address without a valid token that are answered 401; more of them are answered 429. */
  readonly failedLoginsPerMinute: number;
  readonly maxConnections: number;
  /** A body that comes in slower, over a whole idle time-out, is cut. */
  readonly minBytesPerSecond: number;
  /** Uploads that one token may have unfinished, and the bytes that are still to come of them. */
  readonly maxOpenUploads: number;
  readonly maxTokenBytes: number;
  /** Whose X-Forwarded-For and X-Forwarded-Proto are believed; nobody's by default. */
  readonly trustedProxies: readonly string[];
  /** Undefined speaks plain HTTP. */
  readonly tls: TlsFiles | undefined;
}

const GUARD = z.object(GUARD_VARIABLES);

export function toGuardConfig(it: z.infer<typeof GUARD>): GuardConfig {
  const { INGEST_TLS_CERT_FILE: certFile, INGEST_TLS_KEY_FILE: keyFile } = it;
  return {
    ratePerMinute: it.INGEST_RATE_PER_MINUTE,
    failedLoginsPerMinute: it.INGEST_FAILED_LOGINS_PER_MINUTE,
    maxConnections: it.INGEST_MAX_CONNECTIONS,
    minBytesPerSecond: it.INGEST_MIN_BYTES_PER_SECOND,
    maxOpenUploads: it.INGEST_MAX_OPEN_UPLOADS,
    maxTokenBytes: it.INGEST_MAX_TOKEN_BYTES,
    trustedProxies: it.INGEST_TRUSTED_PROXIES,
    tls:
      certFile === undefined || keyFile === undefined
        ? undefined
        : { certFile, keyFile, clientCaFile: it.INGEST_TLS_CLIENT_CA_FILE },
  };
}

/** TLS by halves would be plain HTTP, or TLS without the client certificates that someone counts on. */
export function checkTls(
  it: Partial<z.infer<typeof GUARD>>,
  addFault: (name: string, message: string) => void,
): void {
  const { INGEST_TLS_CERT_FILE: cert, INGEST_TLS_KEY_FILE: key, INGEST_TLS_CLIENT_CA_FILE: ca } = it;
  if (cert === undefined && (key ?? ca) !== undefined)
    addFault('INGEST_TLS_CERT_FILE', 'must be set with INGEST_TLS_KEY_FILE and INGEST_TLS_CLIENT_CA_FILE');
  if (key === undefined && (cert ?? ca) !== undefined)
    addFault('INGEST_TLS_KEY_FILE', 'must be set with INGEST_TLS_CERT_FILE and INGEST_TLS_CLIENT_CA_FILE');
}
