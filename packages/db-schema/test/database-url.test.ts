import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import { DatabaseUrlError, parseDatabaseUrl } from '../src/database-url.ts';

const PASSWORD = 'geheim-9f31';

/** Valid for a hundred years; its key was thrown away. */
const AUTHORITY = `-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIUc4USZR6Ht/yl3/Vspc07/PeMdE0wCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMYW4gYXV0aG9yaXR5MCAXDTI2MTEyOTExMjY1MloYDzIxMjYx
MTA1MTEyNjUyWjAXMRUwEwYDVQQDDAxhbiBhdXRob3JpdHkwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAQeX26X58uZzbYbhZJYrh3OwrcuGtdgiPZuoR/Vfixm+KXq
s9Yg4JFPvg0wkhbekEmHFBF3cK37cJ4p1LJ/sLXNo1MwUTAdBgNVHQ4EFgQU6DDA
J5tAucZkkNPVG9j76ORH7aUwHwYDVR0jBBgwFoAU6DDAJ5tAucZkkNPVG9j76ORH
7aUwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAqKKnIjFYuTdn
TC3bQQTXRlrEyN4bdNmVDbHjGuYPxpoCIBf+jkjUepQGVzk2Ic8s6lOfqcy9EOy3
/FTOw0JVD8Y0
-----END CERTIFICATE-----
`;
const KEY = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIGGKLLX5TxZ1a8wNvjYY8HfVqNVvuHwLDZ7m7dEBTa1b
-----END PRIVATE KEY-----
`;

describe('the address of the database', () => {
  it('is read as psql reads it', () => {
    const cases: readonly (readonly [string, Record<string, unknown>])[] = [
      ['postgres://', {}],
      ['postgresql://u@h', { user: 'u', host: 'h' }],
      [
        'postgres://u:p%40%2F%25@h:6432/db%20x',
        { user: 'u', password: 'p@/%', host: 'h', port: 6432, database: 'db x' },
      ],
      ['postgres://[::1]:5432/db', { host: '::1', port: 5432, database: 'db' }],
      ['postgres://u@%2Frun%2Fpostgresql/db', { user: 'u', host: '/run/postgresql', database: 'db' }],
      ['postgres:///db?host=/run/postgresql', { host: '/run/postgresql', database: 'db' }],
      [
        'postgres://u:p@/db?host=/run/pg&port=5433',
        { user: 'u', password: 'p', host: '/run/pg', port: 5433, database: 'db' },
      ],
      ['postgres://h/?dbname=db&user=u&password=p', { host: 'h', database: 'db', user: 'u', password: 'p' }],
      [
        'postgres://h/db?options=-c%20work_mem%3D8MB&connect_timeout=3',
        { host: 'h', database: 'db', options: '-c work_mem=8MB', connectionTimeoutMillis: 3000 },
      ],
      [
        'postgres://h/db?application_name=x&keepalives=1&target_session_attrs=read-write&channel_binding=prefer',
        { host: 'h', database: 'db' },
      ],
      ['postgres:///db?host=/run/pg&sslmode=require', { host: '/run/pg', database: 'db' }],
    ];
    for (const [text, expected] of cases)
      expect(parseDatabaseUrl(text), text).to.deep.equal({ ssl: false, ...expected });
  });

  it('is refused with the fault and what to write, and never with the password', () => {
    const cases: readonly (readonly [string, RegExp])[] = [
      [`mysql://u:${PASSWORD}@h/db`, /must begin with postgres:\/\//],
      [`host=h user=u password=${PASSWORD}`, /must begin with postgres:\/\//],
      [`postgres://u:${PASSWORD}/x@h/db`, /write \/ as %2F/],
      [`postgres://u:1/${PASSWORD}@h/db`, /write \/ as %2F/],
      [`postgres://u:${PASSWORD}#x@h/db`, /# as %23/],
      [`postgres://u:1#${PASSWORD}@h/db`, /# as %23/],
      [`postgres://u:${PASSWORD}?x@h/db`, /\? as %3F/],
      [`postgres://u:1?${PASSWORD}@h/db`, /parameter \(hidden\) is not known/],
      [`postgres://u:${PASSWORD}%zz@h/db`, /password has a %/],
      [`postgres://u:${PASSWORD}%ff@h/db`, /password has a %/],
      [`postgres://u:${PASSWORD}@h:notaport/db`, /cannot be read as postgres:\/\/USER/],
      [`postgres://u:${PASSWORD}@h:99999/db`, /cannot be read as postgres:\/\/USER/],
      [`postgres://u:${PASSWORD}@h/db?port=99999`, /port must be a number up to 65535/],
      [`postgres://u:${PASSWORD}@h1,h2/db`, /several hosts/],
      [`postgres://u:${PASSWORD}@h1:1,h2:2/db`, /several hosts/],
      [`postgres://u:${PASSWORD}@h/db?sslmode=require&sslmode=disable`, /sslmode twice/],
      [`postgres://u:${PASSWORD}@h/db?schema=public`, /parameter schema is not known/],
      [`postgres://u:${PASSWORD}@h/db?channel_binding=require`, /channel_binding=require is not supported/],
      [`postgres://u:${PASSWORD}@h/db?sslmode=prefer`, /leaves open whether the connection is encrypted/],
      [`postgres://u:${PASSWORD}@h/db?sslmode=allow`, /leaves open/],
      [`postgres://u:${PASSWORD}@h/db?sslmode=no-verify`, /sslmode=no-verify is not known/],
      [`postgres://u:${PASSWORD}@h/db?sslmode=verify-ca`, /needs sslrootcert/],
      [`postgres://u:${PASSWORD}@h/db?sslrootcert=/ca.pem`, /needs sslmode/],
      [`postgres://u:${PASSWORD}@h/db?sslnegotiation=direct`, /needs sslmode/],
      [
        `postgres://u:${PASSWORD}@h/db?sslmode=verify-full&sslrootcert=/none/ca.pem`,
        /sslrootcert cannot be read: ENOENT.*\/none\/ca.pem/,
      ],
      [`postgres://u:${PASSWORD}@h/db?sslmode=require&sslrootcert=system`, /needs sslmode=verify-full/],
      [`postgres://u:${PASSWORD}@h/db?sslmode=require&sslcert=/c.pem`, /belong together/],
    ];
    for (const [text, message] of cases) {
      const parse = () => parseDatabaseUrl(text);
      expect(parse, text).to.throw(DatabaseUrlError, message);
      expect(parse, text).not.to.throw(PASSWORD);
    }
  });

  it('refuses files that hold no certificate, or no pair of certificate and key', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'ingest-url-'));
    const file = path.join(folder, 'file.pem');
    const broken = AUTHORITY.replace(/MII/, 'AAA');
    try {
      for (const text of ['', 'text', KEY, broken, AUTHORITY + broken]) {
        await writeFile(file, text);
        const url = `postgres://u:${PASSWORD}@h/db?sslmode=verify-full`;
        for (const [query, message] of [
          [
            `sslrootcert=${file}`,
            /sslrootcert has (no certificate|a certificate that cannot be read, number [12] of [12])/,
          ],
          [`sslcert=${file}&sslkey=${file}`, /sslcert and sslkey are not a certificate and its key/],
          [`sslcert=${file}&sslkey=${file}&sslpassword=p4ss`, /its key with this passphrase/],
        ] as const) {
          const parse = () => parseDatabaseUrl(`${url}&${query}`);
          if (text === AUTHORITY + broken && query.includes('sslkey')) continue; // the first certificate may be ours
          expect(parse, text).to.throw(DatabaseUrlError, message);
          expect(parse, text).not.to.throw(/p4ss/);
        }
      }
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it('says with sslmode who has to show what, as for psql', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'ingest-url-'));
    const ca = path.join(folder, 'ca.pem');
    await writeFile(ca, AUTHORITY);
    const sslOf = (query: string) => {
      const { ssl } = parseDatabaseUrl(`postgres://h/db?${query}`);
      if (typeof ssl !== 'object') return ssl;
      const looksAtName = ssl.checkServerIdentity === undefined;
      return { ca: ssl.ca, verifies: ssl.rejectUnauthorized, looksAtName };
    };
    expect(sslOf('')).to.equal(false);
    expect(sslOf('sslmode=disable')).to.equal(false);
    expect(sslOf('sslmode=require')).to.deep.equal({ ca: undefined, verifies: false, looksAtName: false });
    expect(sslOf('ssl=true')).to.deep.equal({ ca: undefined, verifies: false, looksAtName: false });
    for (const mode of ['require', 'verify-ca'])
      expect(sslOf(`sslmode=${mode}&sslrootcert=${ca}`), mode).to.deep.equal({
        ca: AUTHORITY,
        verifies: true,
        looksAtName: false,
      });
    expect(sslOf(`sslmode=verify-full&sslrootcert=${ca}`)).to.deep.equal({
      ca: AUTHORITY,
      verifies: true,
      looksAtName: true,
    });
    for (const query of ['sslmode=verify-full', 'sslrootcert=system'])
      expect(sslOf(query), query).to.deep.equal({ ca: undefined, verifies: true, looksAtName: true });
    await rm(folder, { recursive: true });
  });
});
