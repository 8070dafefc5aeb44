import { once } from 'node:events';
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type ServerResponse,
  request as send,
} from 'node:http';
import { createConnection, createServer, type Socket } from 'node:net';

export type Verb = 'PUT' | 'GET' | 'HEAD' | 'PATCH' | 'POST' | 'DELETE';

/** What happens to one request. Bytes are those of its body. */
export type Fault =
  /** A gateway in front of the service answers instead of it. */
  | { do: 'answer'; status: number; headers?: Record<string, string>; body?: string }
  | { do: 'reset' }
  | { do: 'cut_body'; afterBytes: number }
  /** The connection stays open and no more bytes are read, as when the host has lost its power. */
  | { do: 'fall_silent'; afterBytes: number }
  | { do: 'trickle_body'; afterBytes: number }
  /** The service carries out the request; its answer is lost. */
  | { do: 'lose_answer' }
  | { do: 'cut_answer'; afterBytes?: number }
  | { do: 'stall_answer'; afterBytes: number }
  | { do: 'trickle_answer' }
  /** One byte of the request, or of its answer, is another one. */
  | { do: 'spoil_body' }
  | { do: 'spoil_answer' };

export type PlannedFault = {
  on: Verb;
  fault: Fault;
  /** Only for requests whose path and query match. */
  path?: RegExp;
  /** Default: 1. */
  times?: number;
};

/**
 * An HTTP proxy between uploader and service, or between the programs and a bucket (the header `Host`, which is part of a
 * signature, stays as it is). It injects planned faults, as gateways and networks do.
 */
export interface FaultProxy {
  url: string;
  port: number;
  /** Each fault is used once, or `times` times, in this order for each verb. A request without a fault is forwarded. */
  plan(faults: PlannedFault[]): void;
  /** The planned faults that are not used yet. */
  remaining(): PlannedFault[];
  /** Every request so far, as `PATCH /v1/uploads/…`. */
  requests: string[];
  /** Body bytes of PATCH requests received so far. */
  receivedBytes(): number;
  /** The largest number of concurrent requests so far. */
  mostAtOnce(): number;
  /** Stops listening (ECONNREFUSED) and resets open connections, until `accept`. */
  refuse(): Promise<void>;
  accept(): Promise<void>;
  /** Sends the next requests to another port (of a restarted service). */
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

  const server = createHttpServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    atOnce += 1;
    mostAtOnce = Math.max(mostAtOnce, atOnce);
    response.on('close', () => {
      atOnce -= 1;
    });
    const index = planned.findIndex(
      ({ on, path }) => on === request.method && (path === undefined || path.test(request.url ?? '')),
    );
    const next = planned[index];
    if (next !== undefined) {
      const timesLeft = (next.times ?? 1) - 1;
      planned.splice(index, 1, ...(timesLeft > 0 ? [{ ...next, times: timesLeft }] : []));
    }
    request.on('error', () => {});
    response.on('error', () => {});
    if (next?.fault.do === 'reset') request.socket.resetAndDestroy();
    else if (next?.fault.do === 'answer') answer(request, response, next.fault);
    else if (next?.fault.do === 'fall_silent' && next.fault.afterBytes === 0) request.pause();
    else forward(request, response, next?.fault);
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });

  function forward(request: IncomingMessage, response: ServerResponse, fault: Fault | undefined): void {
    const { method, url: path, headers } = request;
    const upstream = send({ host: '127.0.0.1', port: servicePort, method, path, headers, agent: false });
    upstream.on('error', () => request.socket.resetAndDestroy());
    request.on('close', () => {
      if (!request.complete) upstream.destroy();
    });
    response.on('close', () => upstream.destroy());
    upstream.on('response', (answered) => forwardAnswer(answered, request, response, fault));

    const endsAfterBytes =
      fault?.do === 'cut_body' || fault?.do === 'fall_silent' || fault?.do === 'trickle_body'
        ? fault.afterBytes
        : Number.POSITIVE_INFINITY;
    let bodyBytes = 0;
    let ended = false;
    request.on('data', (chunk: Buffer) => {
      if (fault?.do === 'spoil_body' && bodyBytes === 0) spoil(chunk);
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

  function forwardAnswer(
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
    if ((fault?.do === 'cut_answer' && fault.afterBytes !== undefined) || fault?.do === 'stall_answer') {
      const end = fault.do === 'cut_answer' ? () => request.socket.resetAndDestroy() : () => {};
      let leftBytes = fault.afterBytes ?? 0;
      answered.on('data', (chunk: Buffer) => {
        response.write(chunk.subarray(0, leftBytes), leftBytes > chunk.length ? () => {} : end);
        leftBytes = Math.max(0, leftBytes - chunk.length);
      });
    } else if (fault?.do === 'cut_answer') {
      response.write('{', () => request.socket.resetAndDestroy());
    } else if (fault?.do === 'trickle_answer') {
      response.flushHeaders();
      answered.on('data', () => {});
      const drip = setInterval(() => response.write(' '), 1000);
      response.on('close', () => clearInterval(drip));
    } else {
      if (fault?.do === 'spoil_answer') answered.once('data', spoil);
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
  // Answers before the body has arrived, as a gateway without a service does, and discards the body.
  request.resume();
  const page = body ?? `<html><body><h1>${status}</h1> The gateway refuses the request.</body></html>`;
  response.writeHead(status, { 'Content-Type': 'text/html', ...headers });
  response.end(request.method === 'HEAD' ? undefined : page);
}

function spoil(chunk: Buffer): void {
  chunk[chunk.length >> 1] = (chunk[chunk.length >> 1] ?? 0) ^ 1;
}

/** Reads a paused body at one byte a second. The unread bytes fill the buffers of the connection. */
function trickle(request: IncomingMessage, response: ServerResponse): void {
  const drip = setInterval(() => {
    request.read(1);
    // As the connection is not read, only a write shows that the client has closed it.
    response.writeProcessing();
  }, 1000);
  request.on('close', () => clearInterval(drip));
}

/** An HTTP proxy that sends each request to the next of several services, also those of one client or of one upload. */
export interface RoundRobin {
  url: string;
  stop(): Promise<void>;
}

/** @param ports of the services; one that does not listen gets no request. */
export async function startRoundRobin(ports: readonly number[]): Promise<RoundRobin> {
  let turn = 0;
  const server = createHttpServer((request, response) => {
    request.on('error', () => {});
    response.on('error', () => {});
    connectToNext(ports.length, (service) => {
      if (service === undefined) {
        request.resume();
        response.writeHead(502).end();
        return;
      }
      const { method, url: path, headers } = request;
      const upstream = send({ createConnection: () => service, method, path, headers });
      upstream.on('error', () => request.socket.resetAndDestroy());
      response.on('close', () => upstream.destroy());
      upstream.on('response', (answered) => {
        answered.on('error', () => request.socket.resetAndDestroy());
        response.writeHead(answered.statusCode ?? 502, answered.headers);
        answered.pipe(response);
      });
      request.pipe(upstream);
    });
  });

  function connectToNext(tries: number, done: (service: Socket | undefined) => void): void {
    turn += 1;
    const port = ports[turn % ports.length];
    if (tries === 0 || port === undefined) {
      done(undefined);
      return;
    }
    const service = createConnection(port, '127.0.0.1');
    const onError = () => connectToNext(tries - 1, done);
    service.once('error', onError).once('connect', () => {
      service.off('error', onError);
      done(service);
    });
  }

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The proxy has no port.');
  return {
    url: `http://127.0.0.1:${address.port}`,
    async stop() {
      server.close().closeAllConnections();
      await once(server, 'close');
    },
  };
}

/** A TCP proxy between uploader and service. It counts the bytes, and fails on request as a network does. */
export interface TcpProxy {
  port: number;
  url: string;
  /** Bytes from the clients to the service so far, headers included. */
  sentBytes(): number;
  receivedBytes(): number;
  /** Resets every open connection, and accepts new ones. */
  cut(): void;
  /** Resets every open connection and every new one, until `restore`. */
  block(): void;
  /** Keeps connections open but forwards nothing, until `restore`. */
  stall(): void;
  restore(): void;
  /** Sends the next connections to another port (of a restarted service). */
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
      // Backpressure: the count is never far ahead of what the other side has received.
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

/** A proxy between the loader and PostgreSQL. It can lose the answer to the COMMIT of a load. */
export interface CommitProxy {
  port: number;
  /** Forwards the next COMMIT of a load, drops its answer and resets the connection. */
  loseNextAnswer(): void;
  lostAnswers(): number;
  stop(): Promise<void>;
}

/** The start-up message of the connection that carries a load's transaction contains this. */
const LOAD_CONNECTION = 'application_name\0ingest-api load\0';
/** A simple query message: type, length (4 + 7 bytes), text. */
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
      lost += 1; // PostgreSQL has committed and answered
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

/** A TCP proxy that is a slow line: a rate for each direction, shared by all connections, and a delay. */
export interface SlowLink {
  url: string;
  /** Bytes from the clients to the service so far, headers included. */
  sentBytes(): number;
  stop(): Promise<void>;
}

const MOST_QUEUED_BYTES = 256 * 1024;

export async function startSlowLink(
  targetPort: number,
  { bytesPerSecond, roundTripMs }: { bytesPerSecond: number; roundTripMs: number },
): Promise<SlowLink> {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const service = createConnection(targetPort, '127.0.0.1');
    pass(client, service, up);
    pass(service, client, down);
  });
  const up = { freeAtMs: 0, bytes: 0 };
  const down = { freeAtMs: 0, bytes: 0 };

  function pass(from: Socket, to: Socket, line: typeof up): void {
    sockets.add(from);
    const queue: { arrivesAtMs: number; chunk: Buffer | undefined }[] = [];
    let queuedBytes = 0;
    let timer: NodeJS.Timeout | undefined;
    // One timer for all of the queue: several could fire in another order.
    const deliver = () => {
      timer = undefined;
      for (let first = queue[0]; first !== undefined; first = queue[0]) {
        const leftMs = first.arrivesAtMs - performance.now();
        if (leftMs > 0) {
          timer = setTimeout(deliver, leftMs);
          return;
        }
        queue.shift();
        if (first.chunk === undefined) to.end();
        else if (to.writable) to.write(first.chunk);
        queuedBytes -= first.chunk?.length ?? 0;
        if (queuedBytes < MOST_QUEUED_BYTES) from.resume();
      }
    };
    const take = (chunk: Buffer | undefined) => {
      line.freeAtMs =
        Math.max(performance.now(), line.freeAtMs) + ((chunk?.length ?? 0) / bytesPerSecond) * 1000;
      queue.push({ arrivesAtMs: line.freeAtMs + roundTripMs / 2, chunk });
      if (timer === undefined) deliver();
    };
    from.on('data', (chunk: Buffer) => {
      line.bytes += chunk.length;
      queuedBytes += chunk.length;
      if (queuedBytes >= MOST_QUEUED_BYTES) from.pause();
      take(chunk);
    });
    from.on('end', () => take(undefined));
    from.on('error', () => to.destroy());
    from.on('close', () => sockets.delete(from));
  }

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('The proxy has no port.');
  return {
    url: `http://127.0.0.1:${address.port}`,
    sentBytes: () => up.bytes,
    async stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
