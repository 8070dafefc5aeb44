import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

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
export function limitConnections(server: Server, mostConnections: number): void {
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
