import { readFileSync } from 'node:fs';
import type { ConnectionOptions } from 'node:tls';
import type pg from 'pg';
import { certificatesFault, keyPairFault } from 'wire';

/** An address that cannot be used. The message never repeats the address, which contains the password. */
export class DatabaseUrlError extends Error {
  override readonly name = 'DatabaseUrlError';
}

/** Parameters of psql that are accepted and ignored: the program sets their values itself. */
const WITHOUT_EFFECT = new Set([
  'application_name',
  'fallback_application_name',
  'client_encoding',
  'keepalives',
  'keepalives_idle',
  'keepalives_interval',
  'keepalives_count',
  'tcp_user_timeout',
  'uselibpqcompat',
]);
/** Parameters that may have these values only, because the program behaves like this anyway. */
const HARMLESS: Readonly<Record<string, readonly string[]>> = {
  channel_binding: ['disable', 'prefer'],
  gssencmode: ['disable', 'prefer'],
  target_session_attrs: ['any', 'read-write', 'primary'],
};
/** The URL standard requires a host after a user; PostgreSQL does not (`user@/db?host=/run/postgresql`). */
const NO_HOST = '%2F';
const USED = ['user', 'password', 'host', 'port', 'dbname', 'options', 'connect_timeout'];
const TLS = ['sslmode', 'ssl', 'sslrootcert', 'sslcert', 'sslkey', 'sslpassword', 'sslnegotiation'];

/**
 * Reads a `postgres://` address as psql does. Differences are refused or documented (docs/deployment.md, "The
 * address of the database"). `pg` alone would ignore unknown parameters, and treat `sslmode=require` as
 * `verify-full`.
 *
 * @throws {DatabaseUrlError} with the fault and what to write instead, but never with the address.
 */
export function parseDatabaseUrl(text: string): pg.ClientConfig {
  const url = parseUrl(text);
  const given = new Map<string, string>();
  for (const [name, value] of url.searchParams) {
    if (given.has(name)) throw new DatabaseUrlError(`It has the parameter ${name} twice. Keep one.`);
    checkParameter(name, value);
    given.set(name, value);
  }
  const hostname = url.hostname === NO_HOST ? '' : url.hostname.replace(/^\[(.*)\]$/, '$1');
  const host = given.get('host') ?? decode(hostname, 'host');
  if (host.includes(','))
    throw new DatabaseUrlError(
      'It names several hosts. Name one host: a DNS name or a pooler that leads to the server that accepts writes.',
    );
  const port = number(given.get('port') ?? url.port, 'port', 65_535);
  const connectTimeout = number(given.get('connect_timeout'), 'connect_timeout', 3_600);
  const isSocket = host.startsWith('/');
  const sslNegotiation = given.get('sslnegotiation');
  return {
    ...some('host', host),
    ...(port === undefined ? {} : { port }),
    ...some('user', given.get('user') ?? decode(url.username, 'user name')),
    ...some('password', given.get('password') ?? decode(url.password, 'password')),
    ...some('database', given.get('dbname') ?? decode(url.pathname.slice(1), 'database')),
    ...some('options', given.get('options')),
    ...(connectTimeout === undefined ? {} : { connectionTimeoutMillis: connectTimeout * 1000 }),
    ...(sslNegotiation === undefined ? {} : { sslnegotiation: sslNegotiation as 'postgres' | 'direct' }),
    // As in libpq, a local socket never uses TLS, whatever sslmode says.
    ssl: isSocket ? false : tlsOptions(given),
  };
}

function parseUrl(text: string): URL {
  const scheme = /^postgres(ql)?:\/\//.exec(text)?.[0];
  if (scheme === undefined) throw new DatabaseUrlError('It must begin with postgres:// or postgresql://.');
  let url: URL;
  try {
    url = new URL(text.replace(/^([^/]*:\/\/[^/?#]*@)(?=[/?]|$)/, `$1${NO_HOST}`));
  } catch {
    const hosts = text.slice(scheme.length).split(/[/?#]/, 1)[0] ?? '';
    if (hosts.slice(hosts.lastIndexOf('@') + 1).includes(','))
      throw new DatabaseUrlError('It names several hosts. Name one host.');
    throw new DatabaseUrlError(
      'It cannot be read as postgres://USER:PASSWORD@HOST:PORT/DATABASE. In user name and password write / as %2F, @ as %40, : as %3A, # as %23, ? as %3F and % as %25.',
    );
  }
  if (url.hash !== '' || url.pathname.includes('@') || url.pathname.slice(1).includes('/'))
    throw new DatabaseUrlError(
      'It has an unexpected #, @ or /. In user name, password and database write / as %2F, @ as %40 and # as %23.',
    );
  return url;
}

function checkParameter(name: string, value: string): void {
  if (USED.includes(name) || TLS.includes(name) || WITHOUT_EFFECT.has(name)) return;
  const harmless = Object.hasOwn(HARMLESS, name) ? HARMLESS[name] : undefined;
  if (harmless?.includes(value)) return;
  throw new DatabaseUrlError(
    harmless === undefined
      ? `The parameter ${shown(name)} is not known. Use one of ${[...USED, ...TLS].join(', ')}.`
      : `${name}=${shown(value)} is not supported. Use ${harmless.join(' or ')}.`,
  );
}

/** `sslmode` as in libpq, without the two modes that do not say whether the connection is encrypted. */
function tlsOptions(given: ReadonlyMap<string, string>): false | ConnectionOptions {
  const root = given.get('sslrootcert');
  const mode = given.get('sslmode') ?? (given.get('ssl') === 'true' ? 'require' : undefined);
  const sslMode = mode ?? (root === 'system' ? 'verify-full' : undefined);
  const direct = given.get('sslnegotiation') === 'direct';
  if (given.get('sslnegotiation') !== undefined && !direct && given.get('sslnegotiation') !== 'postgres')
    throw new DatabaseUrlError('sslnegotiation must be postgres or direct.');
  switch (sslMode) {
    case 'allow':
    case 'prefer':
      throw new DatabaseUrlError(
        `sslmode=${sslMode} leaves open whether the connection is encrypted. Use verify-full, require or disable.`,
      );
    case undefined:
    case 'disable': {
      const unused = TLS.find((name) => given.has(name) && name !== 'sslmode' && name !== 'ssl');
      if (unused !== undefined && (direct || sslMode === undefined))
        throw new DatabaseUrlError(`${unused} needs sslmode=verify-full, verify-ca or require.`);
      return false;
    }
    case 'require':
    case 'verify-ca':
    case 'verify-full':
      break;
    default:
      throw new DatabaseUrlError(
        `sslmode=${shown(sslMode)} is not known. Use disable, require, verify-ca or verify-full.`,
      );
  }
  if (root === 'system' && sslMode !== 'verify-full')
    throw new DatabaseUrlError('sslrootcert=system needs sslmode=verify-full, as in psql.');
  if (sslMode === 'verify-ca' && root === undefined)
    throw new DatabaseUrlError(
      'sslmode=verify-ca needs sslrootcert, the file with the certificate of the authority.',
    );
  if (given.has('sslcert') !== given.has('sslkey'))
    throw new DatabaseUrlError('sslcert and sslkey belong together, and one of them is missing.');
  const ca = root === 'system' ? undefined : pem('sslrootcert', root);
  const cert = pem('sslcert', given.get('sslcert'));
  const key = pem('sslkey', given.get('sslkey'));
  refuse('sslrootcert', ca === undefined ? null : certificatesFault(ca));
  if (cert !== undefined && key !== undefined)
    refuse('sslcert and sslkey', keyPairFault(cert, key, given.get('sslpassword') || undefined));
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...some('passphrase', given.get('sslpassword')),
    // As in libpq, `require` with a root certificate is `verify-ca`; without one no certificate is checked.
    ...(sslMode === 'verify-full' ? {} : { checkServerIdentity: () => undefined }),
    rejectUnauthorized: sslMode !== 'require' || ca !== undefined,
  };
}

function pem(name: string, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new DatabaseUrlError(`${name} cannot be read: ${(error as Error).message}.`);
  }
}

function refuse(names: string, fault: string | null): void {
  if (fault !== null) throw new DatabaseUrlError(`${names} ${fault}.`);
}

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new DatabaseUrlError(
      `Its ${what} has a % that is not followed by two hexadecimal digits of UTF-8. Write a % as %25.`,
    );
  }
}

function number(text: string | undefined, name: string, most: number): number | undefined {
  if (text === undefined || text === '') return undefined;
  const value = Number(text);
  if (/^\d{1,6}$/.test(text) && value <= most) return value;
  throw new DatabaseUrlError(`${name} must be a number up to ${most}; found ${shown(text)}.`);
}

/** The value if it is short and plain: other text may contain a part of the password. */
function shown(text: string): string {
  return /^[\w.-]{1,40}$/.test(text) ? text : '(hidden)';
}

function some<Name extends string>(name: Name, value: string | undefined): Partial<Record<Name, string>> {
  return value === undefined || value === '' ? {} : ({ [name]: value } as Record<Name, string>);
}
