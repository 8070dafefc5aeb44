import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

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

/** A proxy that publishes a service below a path, which the service does not see, as `location /ingest/` of nginx does. */
export async function startPathProxy(serviceUrl: string, path: string) {
  const server = createServer((req, res) => {
    if (!req.url?.startsWith(`${path}/`)) return void res.writeHead(404).end();
    const { method, headers } = req;
    const onward = request(serviceUrl + req.url.slice(path.length), { method, headers }, (answer) => {
      res.writeHead(answer.statusCode ?? 502, answer.headers);
      res.flushHeaders(); // a stream of events begins with its headers
      answer.pipe(res);
    });
    onward.on('error', () => res.destroy());
    res.on('close', () => onward.destroy());
    req.pipe(onward);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`,
    async stop(): Promise<void> {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
