import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';

/** Stands before PostgreSQL, and can lose the answer to the COMMIT of a load: done there, unknown here. */
export interface CommitProxy {
  port: number;
  /** The next COMMIT of a load is passed on; its answer is not, and the connection is cut. */
  loseNextAnswer(): void;
  lostAnswers(): number;
  stop(): Promise<void>;
}

/** In the start-up message: the connection that a load's transaction lives on, not those beside it. */
const LOAD_CONNECTION = 'application_name\0ingest-api load\0';
/** A simple query message: its type, its length (4 + 7 bytes), its text. */
const COMMIT = Buffer.from('Q\0\0\0\x0bCOMMIT\0', 'latin1');

export async function startCommitProxy(postgresPort: number): Promise<CommitProxy> {
  const sockets = new Set<Socket>();
  let isArmed = false;
  let lost = 0;
  const server = createServer((client) => {
    const postgres = createConnection(postgresPort, '127.0.0.1');
    let isLoad = false;
    let isLosing = false;
    client.on('data', (chunk: Buffer) => {
      isLoad ||= chunk.includes(LOAD_CONNECTION, 0, 'latin1');
      if (isLoad && isArmed && chunk.includes(COMMIT)) {
        isArmed = false;
        isLosing = true;
      }
      postgres.write(chunk);
    });
    postgres.on('data', (chunk: Buffer) => {
      if (!isLosing) {
        client.write(chunk);
        return;
      }
      lost += 1; // PostgreSQL has committed, and said so
      client.resetAndDestroy();
      postgres.destroy();
    });
    for (const [socket, other] of [
      [client, postgres],
      [postgres, client],
    ] as const) {
      sockets.add(socket);
      socket.on('end', () => other.end());
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The proxy has no port.');
  return {
    port: address.port,
    loseNextAnswer() {
      isArmed = true;
    },
    lostAnswers: () => lost,
    async stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
