import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { generate } from 'selfsigned';

/** PEM files of an authority, a server that it signed for 127.0.0.1, and a client. */
export interface Certificates {
  readonly folder: string;
  readonly ca: string;
  readonly server: Pair;
  readonly client: Pair;
}

export interface Pair {
  readonly cert: string;
  readonly key: string;
}

const named = (value: string) => [{ name: 'commonName', value }];

/** An authority of its own with each call. */
export async function makeCertificates(): Promise<Certificates> {
  const folder = await mkdtemp(path.join(tmpdir(), 'ingest-tls-'));
  const authority = await generate(named('test authority'), {
    keyType: 'ec',
    algorithm: 'sha256',
    extensions: [
      { name: 'basicConstraints', cA: true, critical: true },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    ],
  });
  const ca = { cert: authority.cert, key: authority.private };
  const write = async (name: string, text: string) => {
    await writeFile(path.join(folder, name), text, { mode: 0o600 });
    return path.join(folder, name);
  };
  const signed = async (name: string, usage: 'serverAuth' | 'clientAuth'): Promise<Pair> => {
    const pair = await generate(named(name), {
      keyType: 'ec',
      algorithm: 'sha256',
      ca,
      extensions: [
        { name: 'basicConstraints', cA: false },
        { name: 'extKeyUsage', [usage]: true },
        { name: 'subjectAltName', altNames: [{ type: 7, ip: '127.0.0.1' }] },
      ],
    });
    return { cert: await write(`${name}.crt`, pair.cert), key: await write(`${name}.key`, pair.private) };
  };
  return {
    folder,
    ca: await write('ca.crt', authority.cert),
    server: await signed('server', 'serverAuth'),
    client: await signed('client', 'clientAuth'),
  };
}
