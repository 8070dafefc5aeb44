// Exits with 0 when the service of this container is ready. Without dependencies, because it runs every few seconds.
import { once } from 'node:events';
import { get as getHttp } from 'node:http';
import { get as getHttps } from 'node:https';
import { connect } from 'node:net';

const { INGEST_PORT = '8080', INGEST_TLS_CERT_FILE, INGEST_TLS_CLIENT_CA_FILE } = process.env;
const port = Number(INGEST_PORT);

/** A service that requires client certificates answers no request without one, so only the connection is tested. */
async function accepts() {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.destroy();
  return true;
}

async function isReady() {
  const get = INGEST_TLS_CERT_FILE ? getHttps : getHttp;
  // The certificate has the name of the service, not this address. The connection stays inside the container.
  const request = get({ host: '127.0.0.1', port, path: '/readyz', timeout: 4000, rejectUnauthorized: false });
  request.once('timeout', () => request.destroy(new Error('no answer within 4 s')));
  const [response] = await once(request, 'response');
  response.resume();
  return response.statusCode === 200;
}

try {
  const isHealthy = await (INGEST_TLS_CLIENT_CA_FILE ? accepts() : isReady());
  process.exitCode = isHealthy ? 0 : 1;
} catch (error) {
  process.stderr.write(`not ready: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
