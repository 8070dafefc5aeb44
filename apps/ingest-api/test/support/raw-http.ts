import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

/** What was received over one connection until it was closed, or until nothing arrived for a while. */
export interface RawAnswer {
  readonly text: string;
  /** The status of each answer, in order. */
  readonly statuses: readonly number[];
  readonly closed: boolean;
}

/** From one of the addresses of this host, where it matters. */
export async function openSocket(url: string, localAddress = '127.0.0.1'): Promise<Socket> {
  const { hostname, port } = new URL(url);
  const socket = connect({ port: Number(port), host: hostname, localAddress });
  socket.on('error', () => {}); // a reset is an answer as well
  await once(socket, 'connect');
  return socket;
}

/** Resolves when the connection is closed, also by a reset, on which `once` would reject. */
export function untilClosed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
  });
}

/** Sends bytes as they stand, which no HTTP client would, and reads until the server closes or is quiet. */
export async function sendRaw(url: string, request: string | Buffer, quietMs = 1_000): Promise<RawAnswer> {
  const socket = await openSocket(url);
  const answer = collect(socket, quietMs);
  socket.write(request);
  return answer;
}

export async function collect(socket: Socket, quietMs: number): Promise<RawAnswer> {
  let text = '';
  let closed = false;
  await new Promise<void>((resolve) => {
    const quiet = setTimeout(resolve, quietMs);
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      quiet.refresh();
    });
    socket.once('close', () => {
      closed = true;
      clearTimeout(quiet);
      resolve();
    });
  });
  socket.destroy();
  return {
    text,
    statuses: [...text.matchAll(/^HTTP\/1\.1 (\d{3})/gm)].map(([, code]) => Number(code)),
    closed,
  };
}
