import { readFile } from 'node:fs/promises';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { Socket } from 'node:net';
import type { GuardConfig, TlsFiles } from '../config.ts';
import { IngestError } from '../errors.ts';
import { demandMinimumRate } from './limits.ts';
import { rawProblem } from './problems.ts';

interface ListenerOptions {
  readonly guard: GuardConfig;
  readonly idleTimeoutMs: number;
}

/** An upload may take hours: no limit on a whole request, but on every pause in it. */
const LIMITS: ServerOptions = {
  requestTimeout: 0,
  headersTimeout: 30_000,
  keepAliveTimeout: 10_000,
  connectionsCheckingInterval: 5_000,
  requireHostHeader: false, // `framing.ts` does, with a problem document
};

/** HTTP or HTTPS, with everything that a connection may not do to us; not listening yet. */
export async function createListener(
  app: RequestListener,
  { guard, idleTimeoutMs }: ListenerOptions,
): Promise<Server> {
  const server =
    guard.tls === undefined
      ? createServer(LIMITS, app)
      : createTlsServer({ ...LIMITS, handshakeTimeout: 10_000, ...(await readTls(guard.tls)) }, app);
  server.timeout = idleTimeoutMs;
  limitConnections(server, guard.maxConnections);
  answerWhatIsNoRequest(server);
  // With our own answer, when headers decide it; `letBodyCome` asks for the body otherwise.
  server.on('checkContinue', app);
  server.on('checkExpectation', app);
  demandMinimumRate(server, { minBytesPerSecond: guard.minBytesPerSecond, windowMs: idleTimeoutMs });
  return server;
}

/**
 * What is no request that could be given to the app is answered by Node itself, in a bare status line; here as a problem,
 * as everything else is.
 */
function answerWhatIsNoRequest(server: Server): void {
  server.on('clientError', (error: ParseError, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable || hasBegunToAnswer(socket)) socket.destroy(error);
    else answer(socket, whyNoRequest(error));
  });
  // A tunnel, which is no path of ours: RFC 9110 §9.3.6.
  server.on('connect', (_req: IncomingMessage, socket: Socket) =>
    answer(socket, new IngestError('method_not_allowed', 'CONNECT is not allowed here: this is no proxy.'), {
      Allow: '',
    }),
  );
}

interface ParseError extends Error {
  readonly code?: string;
  readonly reason?: string;
  readonly rawPacket?: Buffer;
}

function answer(socket: Socket, error: IngestError, headers: Readonly<Record<string, string>> = {}): void {
  socket.end(rawProblem(error, headers));
  socket.destroySoon();
}

/** Node keeps the response that it is sending here; its own handling of these errors looks at it, too. */
function hasBegunToAnswer(socket: Socket): boolean {
  return (socket as { _httpMessage?: ServerResponse | null })._httpMessage?.headersSent === true;
}

/** A request line of HTTP/1 whose method the parser does not know. */
const UNKNOWN_METHOD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP\/1\.[01]\r?\n/;

function whyNoRequest({ code, reason, message, rawPacket }: ParseError): IngestError {
  if (code === 'HPE_HEADER_OVERFLOW')
    return new IngestError('headers_too_large', 'The request line and the headers have more than 16 KiB.');
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new IngestError('request_timeout', 'The headers of the request did not arrive in time.');
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW')
    return new IngestError('too_large', 'The chunks of the body have more than 16 KiB of extensions.');
  if (reason === 'Request has invalid `Transfer-Encoding`')
    return new IngestError('not_implemented', 'The Transfer-Encoding is not known here; send "chunked".');
  if (code === 'HPE_INVALID_METHOD' && UNKNOWN_METHOD.test(rawPacket?.toString('latin1') ?? ''))
    return new IngestError('not_implemented', 'The method of the request is not known here.');
  return new IngestError('invalid_request', `The request is not HTTP/1.1: ${message}.`);
}

/** @throws a sentence that names the file and the variable. */
async function readTls({ certFile, keyFile, clientCaFile }: TlsFiles) {
  const [cert, key] = await Promise.all([
    read('INGEST_TLS_CERT_FILE', certFile),
    read('INGEST_TLS_KEY_FILE', keyFile),
  ]);
  const base = { cert, key, minVersion: 'TLSv1.2' } as const;
  if (clientCaFile === undefined) return base;
  const ca = await read('INGEST_TLS_CLIENT_CA_FILE', clientCaFile);
  return { ...base, ca, requestCert: true, rejectUnauthorized: true };
}

async function read(variable: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new Error(`${variable} cannot be read; give the path of a PEM file.`, { cause: error });
  }
}

interface Connection {
  readonly socket: Socket;
  /** Address and port of the client; a socket that is closed does not know them any more. */
  readonly end: string;
  readonly address: string;
  /** A request with a valid token came over it. */
  isKnown: boolean;
  /** Requests that are not answered yet. */
  requests: number;
}

/** By the socket that requests name: the TCP one, or the TLS one around it. */
const connectionOf = new WeakMap<Socket, Connection>();

/** The smallest share of one address, however few connections there may be. */
const SMALLEST_SHARE = 16;

/**
 * Leaves room for whoever has a token. Connections over which no valid token came may be a quarter of all from one
 * address; and where a new connection is one too many, the one that matters least makes room for it: the oldest without
 * a token that is idle, else the oldest without a token, else the oldest that is idle. So sockets that are only opened
 * close each other, and a client that sends its request at once is never among the oldest.
 */
function limitConnections(server: Server, mostConnections: number): void {
  const share = Math.max(SMALLEST_SHARE, Math.floor(mostConnections / 4));
  /** By their remote end, the oldest first. */
  const connections = new Map<string, Connection>();

  const forget = (connection: Connection) => {
    if (connections.get(connection.end) === connection) connections.delete(connection.end);
  };
  const closeOldest = (...tests: readonly ((it: Connection) => boolean)[]): boolean => {
    for (const test of tests) {
      const victim = [...connections.values()].find(test);
      if (victim === undefined) continue;
      forget(victim);
      victim.socket.destroy();
      return true;
    }
    return false;
  };
  const isIdle = (it: Connection) => it.requests === 0;
  const isUnknown = (it: Connection) => !it.isKnown;
  const isIdleUnknown = (it: Connection) => isUnknown(it) && isIdle(it);

  server.prependListener('connection', (socket: Socket) => {
    const address = socket.remoteAddress ?? '';
    const isOwn = (it: Connection) => it.address === address && isUnknown(it);
    const own = [...connections.values()].filter(isOwn).length;
    if (own >= share) closeOldest((it) => isOwn(it) && isIdle(it), isOwn);
    if (connections.size >= mostConnections && !closeOldest(isIdleUnknown, isUnknown, isIdle)) {
      socket.destroy();
      return;
    }
    const connection: Connection = { socket, end: endOf(socket), address, isKnown: false, requests: 0 };
    connections.set(connection.end, connection);
    connectionOf.set(socket, connection);
    socket.once('close', () => forget(connection));
  });
  server.on('secureConnection', (socket: Socket) => {
    const connection = connections.get(endOf(socket));
    if (connection !== undefined) connectionOf.set(socket, connection);
  });
  for (const event of ['request', 'checkContinue', 'checkExpectation']) {
    server.prependListener(event, ({ socket }: IncomingMessage, res: ServerResponse) => {
      const connection = connectionOf.get(socket);
      if (connection === undefined) return;
      connection.requests += 1;
      res.once('close', () => {
        connection.requests -= 1;
      });
    });
  }
}

/** The token of a request was found valid: its connection is no longer among those that make room for others. */
export function keepConnection({ socket }: IncomingMessage): void {
  const connection = connectionOf.get(socket);
  if (connection !== undefined) connection.isKnown = true;
}

function endOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
