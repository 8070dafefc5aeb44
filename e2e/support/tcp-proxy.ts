import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';

/** Stands between uploader and service, counts what passes, and fails as a network does. */
export interface TcpProxy {
  port: number;
  url: string;
  /** Bytes that clients have sent to the service so far, headers included. */
  sentBytes(): number;
  receivedBytes(): number;
  /** Cuts every open connection; new ones are taken. */
  cut(): void;
  /** Cuts, and refuses new connections until `restore`. */
  block(): void;
  /** Keeps connections open but passes nothing on, until `restore`. */
  stall(): void;
  restore(): void;
  /** The next connections go to another port (a service that was restarted). */
  target(port: number): void;
  stop(): Promise<void>;
}

export async function startTcpProxy(targetPort: number): Promise<TcpProxy> {
  let port = targetPort;
  let sentBytes = 0;
  let receivedBytes = 0;
  let state: 'passing' | 'blocked' | 'stalled' = 'passing';
  const sockets = new Set<Socket>();

  const server = createServer((client) => {
    if (state === 'blocked') {
      client.resetAndDestroy();
      return;
    }
    const service = createConnection(port, '127.0.0.1');
    join(client, service, (bytes) => {
      sentBytes += bytes;
    });
    join(service, client, (bytes) => {
      receivedBytes += bytes;
    });
    if (state === 'stalled') for (const socket of [client, service]) socket.pause();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The proxy has no port.');

  function join(from: Socket, to: Socket, count: (bytes: number) => void): void {
    sockets.add(from);
    from.on('data', (chunk) => {
      count(chunk.length);
      // Pressure goes back to the sender, so that what was counted is never far ahead of what has arrived.
      if (!to.write(chunk)) from.pause();
    });
    to.on('drain', () => {
      if (state !== 'stalled') from.resume();
    });
    from.on('end', () => to.end());
    from.on('error', () => to.destroy());
    from.on('close', () => {
      sockets.delete(from);
      to.destroy();
    });
  }

  function cut(): void {
    for (const socket of sockets) socket.resetAndDestroy();
  }

  return {
    port: address.port,
    url: `http://127.0.0.1:${address.port}`,
    sentBytes: () => sentBytes,
    receivedBytes: () => receivedBytes,
    cut,
    block() {
      state = 'blocked';
      cut();
    },
    stall() {
      state = 'stalled';
      for (const socket of sockets) socket.pause();
    },
    restore() {
      state = 'passing';
      for (const socket of sockets) socket.resume();
    },
    target(newPort) {
      port = newPort;
    },
    async stop() {
      cut();
      server.close();
      await once(server, 'close');
    },
  };
}
