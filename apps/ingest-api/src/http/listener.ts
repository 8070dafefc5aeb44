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
import type { ServeConfig, TlsIdentity } from '../config.ts';
import { IngestError } from '../errors.ts';
import { rawProblem } from './problems.ts';

/** An upload may take hours: its time is not limited, but every pause in it is. */
const LIMITS: ServerOptions = {
  requestTimeout: 0,
  headersTimeout: 30_000,
  keepAliveTimeout: 10_000,
  connectionsCheckingInterval: 5_000,
  requireHostHeader: false, // `requireGoodFraming` does, with a problem document
};

/** The HTTP or HTTPS server with all limits of connections. It does not listen yet. */
export function createListener(
  app: RequestListener,
  { guard, idleTimeoutMs }: Pick<ServeConfig, 'guard' | 'idleTimeoutMs'>,
): Server {
  const server =
    guard.tls === undefined
      ? createServer(LIMITS, app)
      : createTlsServer({ ...LIMITS, handshakeTimeout: 10_000, ...tlsOptions(guard.tls) }, app);
  server.timeout = idleTimeoutMs;
  limitConnections(server, guard.maxConnections);
  answerBadRequests(server);
  // Otherwise Node answers `100 Continue` at once; `letBodyCome` does so when the headers are found good.
  server.on('checkContinue', app);
  server.on('checkExpectation', app);
  demandMinimumRate(server, guard.minBytesPerSecond, idleTimeoutMs);
  return server;
}

function tlsOptions({ cert, key, clientCa }: TlsIdentity) {
  const base = { cert, key, minVersion: 'TLSv1.2' } as const;
  return clientCa === undefined
    ? base
    : { ...base, ca: clientCa, requestCert: true, rejectUnauthorized: true };
}

interface Connection {
  readonly socket: Socket;
  /** Address and port of the client. A closed socket no longer has them. */
  readonly end: string;
  readonly address: string;
  /** A request with a valid token has arrived over it. */
  isKnown: boolean;
  /** Requests that are not answered yet. */
  requests: number;
}

/** By the socket of the requests: the TCP socket, or the TLS socket around it. */
const connectionOf = new WeakMap<Socket, Connection>();

/** One address may always have this many connections without a valid token. */
const SMALLEST_SHARE = 16;

/**
 * Keeps connections free for clients with a token. Of one address, at most a quarter of all connections may
 * be without a valid token. When a new connection exceeds a limit, it replaces the one that matters least:
 * the oldest idle one without a token, else the oldest without a token, else the oldest idle one. So sockets
 * that only open and send nothing replace each other, and a client that sends its request at once is never
 * among the oldest.
 */
function limitConnections(server: Server, mostConnections: number): void {
  const share = Math.max(SMALLEST_SHARE, Math.floor(mostConnections / 4));
  /** By remote address and port, the oldest first. */
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

/**
 * Call it when the token of a request is valid: its connection no longer has to make room while it is in use.
 */
export function keepConnection({ socket }: IncomingMessage): void {
  const connection = connectionOf.get(socket);
  if (connection !== undefined) connection.isKnown = true;
}

function endOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/**
 * Node answers bytes that are not a request by itself, with a bare status line. Here the answer is a problem
 * document, as for every other error.
 */
function answerBadRequests(server: Server): void {
  server.on('clientError', (error: ParseError, socket: Socket) => {
    if (error.code === 'ECONNRESET' || !socket.writable || hasBegunToAnswer(socket)) socket.destroy(error);
    else answer(socket, fromParseError(error));
  });
  // Its target is another host, so that no route can match it (RFC 9110 §9.3.6).
  server.on('connect', (_req: IncomingMessage, socket: Socket) =>
    answer(
      socket,
      new IngestError('method_not_allowed', 'CONNECT is not allowed: this service is not a proxy.'),
      {
        Allow: '',
      },
    ),
  );
}

function answer(socket: Socket, error: IngestError, headers: Readonly<Record<string, string>> = {}): void {
  socket.end(rawProblem(error, headers));
  socket.destroySoon();
}

interface ParseError extends Error {
  readonly code?: string;
  readonly reason?: string;
  readonly rawPacket?: Buffer;
}

/** Node keeps the response that it is sending here, and reads it for the same purpose. */
function hasBegunToAnswer(socket: Socket): boolean {
  return (socket as { _httpMessage?: ServerResponse | null })._httpMessage?.headersSent === true;
}

/** A correct request line whose method the parser does not know. */
const UNKNOWN_METHOD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+ \S+ HTTP\/1\.[01]\r?\n/;

function fromParseError({ code, reason, message, rawPacket }: ParseError): IngestError {
  if (code === 'HPE_HEADER_OVERFLOW')
    return new IngestError(
      'headers_too_large',
      'The request line and the headers have more than 16 KiB together.',
    );
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new IngestError('request_timeout', 'The headers of the request did not arrive in time.');
  if (code === 'HPE_CHUNK_EXTENSIONS_OVERFLOW')
    return new IngestError('too_large', 'The chunks of the body have more than 16 KiB of extensions.');
  if (reason === 'Request has invalid `Transfer-Encoding`')
    return new IngestError('not_implemented', 'The Transfer-Encoding is not supported; send "chunked".');
  if (code === 'HPE_INVALID_METHOD' && UNKNOWN_METHOD.test(rawPacket?.toString('latin1') ?? ''))
    return new IngestError('not_implemented', 'The method of the request is not supported.');
  return new IngestError('invalid_request', `The request is not HTTP/1.1: ${message}.`);
}

/**
 * Cuts requests whose body arrives too slowly: single bytes now and then would defeat every idle time-out,
 * and occupy a connection and a lock for ever. Bytes that arrived are kept, and an honest client continues
 * from there.
 */
function demandMinimumRate(server: Server, minBytesPerSecond: number, windowMs: number): void {
  const leastBytes = (minBytesPerSecond * windowMs) / 1000;
  const watch = (req: IncomingMessage) => {
    const { headers, socket } = req;
    if (headers['content-length'] === undefined && headers['transfer-encoding'] === undefined) return;
    let seenBytes = socket.bytesRead;
    const timer = setInterval(() => {
      const newBytes = socket.bytesRead - seenBytes;
      seenBytes = socket.bytesRead;
      // Bytes that wait in our buffer are not the client's fault: a disk or a lock is slow.
      const isOurTurn = req.readableLength > 0;
      if (req.complete) clearInterval(timer);
      else if (newBytes < leastBytes && !isOurTurn) socket.destroy();
    }, windowMs);
    timer.unref();
    req.once('close', () => clearInterval(timer));
  };
  server.on('request', watch).on('checkContinue', watch);
}
