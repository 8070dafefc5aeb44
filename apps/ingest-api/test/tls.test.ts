import { execFile } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { get, request } from 'node:https';
import path from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { expect } from 'chai';
import { ConfigError, loadServeConfig } from '../src/config.ts';
import { type Certificates, makeCertificates, type Pair } from './support/certificates.ts';
import { scoreLines, startSystem, type TestSystem } from './support/system.ts';

const { guard } = loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' });
const UPLOADER = path.join(import.meta.dirname, '..', '..', 'uploader', 'bin', 'uploader.js');

describe('TLS', () => {
  let ours: Certificates;
  let others: Certificates;
  before(async () => {
    [ours, others] = await Promise.all([makeCertificates(), makeCertificates()]);
  });
  after(async () => {
    for (const { folder } of [ours, others]) await rm(folder, { recursive: true, force: true });
  });

  async function withTls(
    clientCaFile: string | undefined,
    work: (system: TestSystem, url: string) => Promise<void>,
  ) {
    const [cert, key] = [await readFile(ours.server.cert, 'utf8'), await readFile(ours.server.key, 'utf8')];
    const clientCa = clientCaFile === undefined ? undefined : await readFile(clientCaFile, 'utf8');
    const system = await startSystem({ guard: { ...guard, tls: { cert, key, clientCa } } });
    try {
      await work(system, system.url.replace('http:', 'https:'));
    } finally {
      await system.stop();
    }
  }

  /** The status of /readyz, or the code of the error that the client met. */
  async function ask(url: string, ca: string, client?: Pair): Promise<number | string | undefined> {
    const files = client && { cert: await readFile(client.cert), key: await readFile(client.key) };
    const authority = await readFile(ca);
    return new Promise((resolve) => {
      get(new URL('/readyz', url), { agent: false, ca: authority, ...files }, (res) => {
        res.resume();
        resolve(res.statusCode);
      }).on('error', (error: NodeJS.ErrnoException) => resolve(error.code));
    });
  }

  function push(system: TestSystem, url: string, folder: string, ...options: string[]) {
    const args = [
      UPLOADER,
      'push',
      folder,
      '--model',
      'churn',
      '--run',
      'r',
      '--no-wait',
      '--json',
      '--url',
      url,
      ...options,
    ];
    const env = { ...process.env, UPLOADER_TOKEN: system.token, XDG_STATE_HOME: system.dataDir };
    return new Promise<{ code: number; output: string }>((resolve) => {
      execFile(process.execPath, args, { env, timeout: 60_000 }, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr }),
      );
    });
  }

  async function sourceFolder(system: TestSystem): Promise<string> {
    const folder = path.join(system.dataDir, 'source');
    await mkdir(folder);
    await writeFile(path.join(folder, 'a.jsonl'), scoreLines(100));
    return folder;
  }

  it('is spoken with our certificate, from version 1.2 on, and nothing else on that port', () =>
    withTls(undefined, async (system, url) => {
      expect(await ask(url, ours.ca)).to.equal(200);
      expect(await ask(url, others.ca)).to.be.oneOf([
        'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
        'SELF_SIGNED_CERT_IN_CHAIN',
        'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
        'CERT_SIGNATURE_FAILURE',
      ]);
      const plain = await fetch(new URL('/livez', system.url)).catch(() => 'refused');
      expect(plain).to.equal('refused');
      expect(await handshake(url, 'TLSv1.1')).to.equal('refused');
      expect(await handshake(url, 'TLSv1.2')).to.equal('TLSv1.2');
      expect(await handshake(url, 'TLSv1.3')).to.equal('TLSv1.3');
    }));

  it('asks browsers for nothing else than HTTPS from then on, and gives the page a cookie for it alone', () =>
    withTls(undefined, async (system, url) => {
      const page = { 'sec-fetch-site': 'same-origin', 'content-type': 'application/json' };
      const ca = await readFile(ours.ca);
      const answer = await new Promise<IncomingMessage>((resolve, reject) => {
        const req = request(
          new URL('/session', url),
          { method: 'POST', agent: false, ca, headers: page },
          resolve,
        );
        req.once('error', reject).end(JSON.stringify({ token: system.token }));
      });
      answer.resume();
      expect(answer.statusCode).to.equal(200);
      expect(answer.headers['strict-transport-security']).to.equal('max-age=31536000');
      expect(answer.headers['set-cookie']?.[0]).to.match(/^__Host-ingest_session=[^;]+;.*; Secure/);
    }));

  it('is trusted by the uploader with --ca, and not without', () =>
    withTls(undefined, async (system, url) => {
      const folder = await sourceFolder(system);
      const distrusted = await push(system, url, folder);
      expect(distrusted.code).to.equal(2);
      expect(distrusted.output).to.contain('--ca');
      const trusted = await push(system, url, folder, '--ca', ours.ca);
      expect(trusted.code, trusted.output).to.equal(0);
      expect((await push(system, url, folder, '--ca', '/no/such.pem')).code).to.equal(2);
    }));

  it('with a client authority lets in only who shows a certificate of it', () =>
    withTls(ours.ca, async (system, url) => {
      expect(await ask(url, ours.ca, ours.client)).to.equal(200);
      expect(await ask(url, ours.ca), 'no certificate').to.be.a('string');
      expect(await ask(url, ours.ca, others.client), 'of another authority').to.be.a('string');
      const folder = await sourceFolder(system);
      const known = await push(
        system,
        url,
        folder,
        '--ca',
        ours.ca,
        '--cert',
        ours.client.cert,
        '--key',
        ours.client.key,
      );
      expect(known.code, known.output).to.equal(0);
      const unknown = await push(system, url, folder, '--ca', ours.ca, '--max-duration', '2s');
      expect(unknown.code, unknown.output).not.to.equal(0);
    }));

  it('is not begun by halves, nor with proxies that are no addresses', async () => {
    const env = { DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' };
    expect(() => loadServeConfig({ ...env, INGEST_TLS_CERT_FILE: 'a' })).to.throw(
      'INGEST_TLS_KEY_FILE is not set',
    );
    expect(() => loadServeConfig({ ...env, INGEST_TLS_CLIENT_CA_FILE: 'a' })).to.throw(
      'INGEST_TLS_CERT_FILE is not set',
    );
    expect(() => loadServeConfig({ ...env, INGEST_TRUSTED_PROXIES: '10.0.0.0/8, everybody' })).to.throw(
      'INGEST_TRUSTED_PROXIES',
    );
  });

  it('is not begun with files that no connection could use', async () => {
    const file = path.join(ours.folder, 'wrong.pem');
    const good = {
      DATABASE_URL: 'postgres://',
      INGEST_STORE: 's3://bucket/prefix',
      INGEST_S3_CA_FILE: ours.ca,
      INGEST_TLS_CERT_FILE: ours.server.cert,
      INGEST_TLS_KEY_FILE: ours.server.key,
      INGEST_TLS_CLIENT_CA_FILE: ours.ca,
    };
    expect(() => loadServeConfig(good)).not.to.throw();
    const certificate = await readFile(ours.ca, 'utf8');
    const broken = certificate.replace('MII', 'AAA');
    const contents = [
      '',
      'text',
      await readFile(ours.server.key, 'utf8'),
      broken,
      certificate + broken,
      null,
    ];
    for (const content of contents) {
      if (content === null) await rm(file);
      else await writeFile(file, content);
      for (const name of ['INGEST_S3_CA_FILE', 'INGEST_TLS_CERT_FILE', 'INGEST_TLS_CLIENT_CA_FILE'])
        expect(() => loadServeConfig({ ...good, [name]: file }), `${name}: ${content}`).to.throw(
          ConfigError,
          new RegExp(`${name}: (has (no|a) certificate|cannot be read: ENOENT).*\\(found ".*wrong.pem"\\)`),
        );
    }
    for (const pair of [
      { INGEST_TLS_KEY_FILE: ours.ca },
      { INGEST_TLS_KEY_FILE: ours.client.key },
      { INGEST_TLS_CERT_FILE: ours.client.cert },
    ])
      expect(() => loadServeConfig({ ...good, ...pair })).to.throw(
        ConfigError,
        'INGEST_TLS_CERT_FILE and INGEST_TLS_KEY_FILE are not a certificate and its key, without a passphrase (',
      );
  });
});

function handshake(url: string, version: 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3'): Promise<string | null> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const socket: TLSSocket = connect(
      {
        host: hostname,
        port: Number(port),
        rejectUnauthorized: false,
        minVersion: version,
        maxVersion: version,
        ciphers: 'DEFAULT@SECLEVEL=0',
      },
      () => {
        resolve(socket.getProtocol());
        socket.destroy();
      },
    );
    socket.once('error', () => resolve('refused'));
  });
}
