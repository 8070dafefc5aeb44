import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse, request as send } from 'node:http';
import type { Socket } from 'node:net';

export type Verb = 'PUT' | 'GET' | 'HEAD' | 'PATCH' | 'POST';

/** What happens to one request. Bytes are those of its body. */
export type Fault =
  /** Something in front of the service answers in its place. */
  | { do: 'answer'; status: number; headers?: Record<string, string>; body?: string }
  | { do: 'reset' }
  | { do: 'cut_body'; afterBytes: number }
  /** The connection stays open and nobody reads on: what a host that lost its power looks like. */
  | { do: 'fall_silent'; afterBytes: number }
  | { do: 'trickle_body'; afterBytes: number }
  /** The service did what was asked; nobody hears of it. */
  | { do: 'lose_answer' }
  | { do: 'cut_answer' }
  | { do: 'trickle_answer' };

export type PlannedFault = { on: Verb; fault: Fault };

/** An HTTP proxy between uploader and service that fails on request, as gateways and networks do. */
export interface FaultProxy {
  url: string;
  port: number;
  /** Each is used once, in this order for each verb; requests without one are passed on. */
  plan(faults: PlannedFault[]): void;
  /** Planned, and not used yet. */
  remaining(): PlannedFault[];
  /** Every request, as `PATCH /v1/uploads/…`. */
  requests: string[];
  /** Body bytes of PATCH requests that have come in. */
  receivedBytes(): number;
  /** The most requests that were under way at a time. */
  mostAtOnce(): number;
  /** Nobody listens any more (ECONNREFUSED), and open connections are reset; until `accept`. */
  refuse(): Promise<void>;
  accept(): Promise<void>;
  /** The next requests go to another port (a service that was restarted). */
  target(port: number): void;
  stop(): Promise<void>;
}

export async function startFaultProxy(targetPort: number): Promise<FaultProxy> {
  let servicePort = targetPort;
  let planned: PlannedFault[] = [];
  let receivedBytes = 0;
  let atOnce = 0;
  let mostAtOnce = 0;
  const requests: string[] = [];
  const sockets = new Set<Socket>();

  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    atOnce += 1;
    mostAtOnce = Math.max(mostAtOnce, atOnce);
    response.on('close', () => {
      atOnce -= 1;
    });
    const index = planned.findIndex(({ on }) => on === request.method);
    const [next] = index < 0 ? [] : planned.splice(index, 1);
    request.on('error', () => {});
    response.on('error', () => {});
    if (next?.fault.do === 'reset') request.socket.resetAndDestroy();
    else if (next?.fault.do === 'answer') answer(request, response, next.fault);
    else if (next?.fault.do === 'fall_silent' && next.fault.afterBytes === 0) request.pause();
    else passOn(request, response, next?.fault);
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });

  function passOn(request: IncomingMessage, response: ServerResponse, fault: Fault | undefined): void {
    const { method, url: path, headers } = request;
    const upstream = send({ host: '127.0.0.1', port: servicePort, method, path, headers, agent: false });
    upstream.on('error', () => request.socket.resetAndDestroy());
    request.on('close', () => {
      if (!request.complete) upstream.destroy();
    });
    response.on('close', () => upstream.destroy());
    upstream.on('response', (answered) => passBack(answered, request, response, fault));

    const endsAfterBytes = fault && 'afterBytes' in fault ? fault.afterBytes : Number.POSITIVE_INFINITY;
    let bodyBytes = 0;
    let ended = false;
    request.on('data', (chunk: Buffer) => {
      bodyBytes += chunk.length;
      if (method === 'PATCH') receivedBytes += chunk.length;
      const hasRoom = upstream.write(chunk);
      if (bodyBytes < endsAfterBytes) {
        if (!hasRoom) request.pause();
        return;
      }
      if (ended) return;
      ended = true;
      request.pause();
      upstream.off('drain', resume);
      if (fault?.do === 'cut_body') request.socket.resetAndDestroy();
      if (fault?.do === 'trickle_body') trickle(request, response);
    });
    const resume = () => request.resume();
    upstream.on('drain', resume);
    request.on('end', () => upstream.end());
  }

  function passBack(
    answered: IncomingMessage,
    request: IncomingMessage,
    response: ServerResponse,
    fault: Fault | undefined,
  ): void {
    if (fault?.do === 'lose_answer') {
      answered.resume();
      request.socket.resetAndDestroy();
      return;
    }
    response.writeHead(answered.statusCode ?? 502, answered.headers);
    if (fault?.do === 'cut_answer') {
      response.write('{', () => request.socket.resetAndDestroy());
    } else if (fault?.do === 'trickle_answer') {
      response.flushHeaders();
      answered.on('data', () => {});
      const drip = setInterval(() => response.write(' '), 1000);
      response.on('close', () => clearInterval(drip));
    } else {
      answered.on('error', () => request.socket.resetAndDestroy());
      answered.pipe(response);
    }
  }

  async function listen(port: number): Promise<number> {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('The proxy has no port.');
    return address.port;
  }

  async function refuse(): Promise<void> {
    const closed = once(server, 'close');
    server.close();
    for (const socket of sockets) socket.resetAndDestroy();
    await closed;
  }

  const port = await listen(0);
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    requests,
    plan: (faults) => {
      planned = [...faults];
    },
    remaining: () => planned,
    receivedBytes: () => receivedBytes,
    mostAtOnce: () => mostAtOnce,
    refuse,
    async accept() {
      await listen(port);
    },
    target: (newPort) => {
      servicePort = newPort;
    },
    async stop() {
      if (server.listening) await refuse();
    },
  };
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { status, headers, body }: Fault & { do: 'answer' },
): void {
  // At once, as a gateway does that has no service behind it; the body still comes, and goes nowhere.
  request.resume();
  const page = body ?? `<html><body><h1>${status}</h1> The gateway says no.</body></html>`;
  response.writeHead(status, { 'Content-Type': 'text/html', ...headers });
  response.end(request.method === 'HEAD' ? undefined : page);
}

/** Takes a paused body on at one byte a second. What is not read fills the line behind it. */
function trickle(request: IncomingMessage, response: ServerResponse): void {
  const drip = setInterval(() => {
    request.read(1);
    // Nothing is read from the connection any more, so that only writing shows that the client has left it.
    response.writeProcessing();
  }, 1000);
  request.on('close', () => clearInterval(drip));
}
