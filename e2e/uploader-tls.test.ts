import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer as createLine } from 'node:net';
import { join } from 'node:path';
import { createServer, type Server } from 'node:tls';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { writeScoreFile } from './support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

/** Long enough for retries to show: a fault that stays must not use it up. */
const MAX_DURATION_SECONDS = 60;
/** By then the service has answered the declaration, and a file is being sent. */
const DAMAGED_AFTER_BYTES = 300_000;

describe('uploader push, over TLS', () => {
  let system: TestSystem;
  let service: Service;
  let gateway: Server;
  let port: number;
  let certificate: string;

  before(async function () {
    system = await startTestSystem();
    certificate = join(system.workDir, 'localhost.crt');
    const key = join(system.workDir, 'localhost.key');
    if (!(await makeCertificate(certificate, key))) this.skip();
    service = await system.startService();
    system.startLoader();
    await writeScoreFile(join(system.workDir, 'out/a.jsonl'), 1000, 1);
    gateway = createServer({ cert: await readFile(certificate), key: await readFile(key) }, (client) => {
      const upstream = connect(service.port, '127.0.0.1');
      client.on('error', () => upstream.destroy());
      upstream.on('error', () => client.destroy());
      client.pipe(upstream).pipe(client);
    });
    gateway.listen(0);
    await once(gateway, 'listening');
    port = (gateway.address() as AddressInfo).port;
  });
  after(async () => {
    gateway?.close();
    await system.stop();
  });

  const push = (url: string, env: Record<string, string> = {}) => {
    const named = ['--model', 'churn', '--run', '2026-11', '--json'];
    const args = [
      'push',
      join(system.workDir, 'out'),
      ...named,
      '--max-duration',
      `${MAX_DURATION_SECONDS}s`,
    ];
    return system.runUploader(url, args, env);
  };

  const refusals: Array<[string, () => [url: string, env: Record<string, string>], string]> = [
    ['a certificate that nobody vouches for', () => [`https://localhost:${port}`, {}], 'self-signed'],
    [
      'a certificate of another host',
      () => [`https://127.0.0.1:${port}`, { NODE_EXTRA_CA_CERTS: certificate }],
      'does not match',
    ],
    ['a server that does not speak TLS', () => [`https://127.0.0.1:${service.port}`, {}], 'SSL'],
  ];
  for (const [what, to, says] of refusals) {
    it(`ends with 2, and does not try again, at ${what}`, async () => {
      const { code, stdout, stderr } = await push(...to());
      expect(code, stderr).to.equal(2);
      expect(stderr).to.include(says).and.not.include('next try');
      expect(JSON.parse(stdout).runs[0].error.detail).to.include('NODE_EXTRA_CA_CERTS');
    });
  }

  it('publishes when the authority is named in NODE_EXTRA_CA_CERTS', async () => {
    const { code, stderr } = await push(`https://localhost:${port}`, { NODE_EXTRA_CA_CERTS: certificate });
    expect(code, stderr).to.equal(0);
  });

  it('tries again when bytes are damaged on the way, in mid push', async () => {
    await writeScoreFile(join(system.workDir, 'out/b.jsonl'), 20_000, 100_000);
    let sentBytes = 0;
    let damaged = 0;
    const line = createLine((client) => {
      const upstream = connect(port, '127.0.0.1');
      client
        .on('error', () => upstream.destroy())
        .on('data', (chunk: Buffer) => {
          sentBytes += chunk.length;
        });
      upstream
        .on('error', () => client.destroy())
        .on('data', (chunk: Buffer) => {
          if (sentBytes > DAMAGED_AFTER_BYTES && damaged === 0) {
            damaged += 1;
            chunk[chunk.length - 1] = (chunk.at(-1) ?? 0) ^ 1;
          }
          client.write(chunk);
        });
      client.pipe(upstream);
      upstream.on('end', () => client.end());
    });
    line.listen(0);
    await once(line, 'listening');
    try {
      const url = `https://localhost:${(line.address() as AddressInfo).port}`;
      const { code, stderr } = await push(url, {
        NODE_EXTRA_CA_CERTS: certificate,
        UPLOADER_COMPRESS: 'off',
      });
      expect(code, stderr).to.equal(0);
      expect(damaged).to.equal(1);
      expect(stderr).to.match(/bad record mac.*; retrying until/i);
    } finally {
      line.close();
    }
  });
});

/** Resolves to false where there is no openssl: Node can read certificates but not make one. */
async function makeCertificate(certificate: string, key: string): Promise<boolean> {
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  const files = ['-keyout', key, '-out', certificate];
  try {
    await promisify(execFile)('openssl', ['req', '-x509', '-days', '2', ...curve, ...subject, ...files]);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
    throw error;
  }
}
