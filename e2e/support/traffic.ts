/**
 * A process of its own for many-uploads.test.ts, so that the test measures the service and not the clients. It receives
 * one order by IPC: to send many uploads at the same time, or to time the answers of one address until it receives
 * 'stop'. It answers with its result and ends.
 */
import { once } from 'node:events';
import { Agent, type ClientRequest, get, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { createZstdCompress } from 'node:zlib';

export interface SendOrder {
  readonly kind: 'send';
  readonly url: string;
  readonly token: string;
  /** Paths of uploads whose offset is 0. */
  readonly uploads: readonly string[];
  readonly sizeBytes: number;
  /** The body of one PATCH. */
  readonly patchBytes: number;
  /** The rate of each upload; null: as fast as the service reads. */
  readonly bytesPerSecond: number | null;
  /** Bodies are compressed with zstd, as the uploader does. */
  readonly isCompressed: boolean;
}

export interface SendReport {
  /** Until the last upload was complete. */
  readonly seconds: number;
  /** How many answers were 423, 429 or 503. The upload then continued from the offset of a HEAD, as every client does. */
  readonly comeAgain: number;
}

/** The answer is an array of times in ms. */
export interface TimeOrder {
  readonly kind: 'time';
  readonly url: string;
  readonly token: string;
  readonly everyMs: number;
}

/** Shorter than the service asks for. */
const RETRY_AFTER_MS = 500;

let isStopped = false;
const agent = new Agent({ keepAlive: true });

process.on('message', async (message: SendOrder | TimeOrder | 'stop') => {
  if (message === 'stop') {
    isStopped = true;
    return;
  }
  const result = message.kind === 'send' ? await sendAll(message) : await timeAnswers(message);
  agent.destroy();
  process.send?.(result, () => process.disconnect?.());
});

async function sendAll(order: SendOrder): Promise<SendReport> {
  const { bytesPerSecond, patchBytes, uploads, sizeBytes } = order;
  const startedMs = performance.now();
  let comeAgain = 0;
  const sendOne = async (path: string, index: number) => {
    // Independent clients do not end their requests all at the same time.
    if (bytesPerSecond !== null) await delay((index / uploads.length) * (patchBytes / bytesPerSecond) * 1000);
    for (let offset = 0; offset < sizeBytes; ) {
      const bytes = Math.min(patchBytes, sizeBytes - offset);
      const status = await patch(order, path, offset, bytes);
      if (![204, 423, 429, 503].includes(status)) throw new Error(`PATCH answered ${status}.`);
      if (status !== 204) comeAgain += 1;
      if (status === 429) await delay(RETRY_AFTER_MS);
      offset = status === 204 ? offset + bytes : await offsetOf(order, path);
    }
  };
  await Promise.all(uploads.map(sendOne));
  return { seconds: (performance.now() - startedMs) / 1000, comeAgain };
}

function patch(order: SendOrder, path: string, offset: number, bytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const req = request(`${order.url}${path}`, {
      method: 'PATCH',
      agent,
      headers: {
        authorization: `Bearer ${order.token}`,
        'tus-resumable': '1.0.0',
        'upload-offset': offset,
        'content-type': 'application/offset+octet-stream',
        ...(order.isCompressed ? { 'content-encoding': 'zstd' } : { 'content-length': bytes }),
      },
    });
    req.on('error', reject);
    req.on('response', (res) => res.resume().on('end', () => resolve(res.statusCode ?? 0)));
    const writing = order.isCompressed
      ? writeCompressed(req, bytes)
      : writeBody(req, bytes, order.bytesPerSecond);
    writing.catch(reject);
  });
}

async function writeBody(req: ClientRequest, bytes: number, bytesPerSecond: number | null): Promise<void> {
  // Lines may be cut: the service does not parse a file before the load.
  const filling = Buffer.alloc(64 * 1024, '{ "pk": "1", "score": "1" }\n');
  const startedMs = performance.now();
  for (let sent = 0; sent < bytes; ) {
    const piece = filling.subarray(0, Math.min(filling.length, bytes - sent));
    sent += piece.length;
    const hasRoom = req.write(piece);
    const aheadMs =
      bytesPerSecond === null ? 0 : startedMs + (sent / bytesPerSecond) * 1000 - performance.now();
    if (aheadMs > 0) await delay(aheadMs);
    else if (!hasRoom) await once(req, 'drain');
  }
  req.end();
}

/** The window of a stream is half a MiB, whatever the content: the decoder has to hold it. */
async function writeCompressed(req: ClientRequest, bytes: number): Promise<void> {
  const encoder = createZstdCompress();
  encoder.pipe(req);
  for (let sent = 0; sent < bytes; ) {
    const piece = Buffer.alloc(Math.min(64 * 1024, bytes - sent), `{ "pk": "${sent}", "score": "1" }\n`);
    sent += piece.length;
    if (!encoder.write(piece)) await once(encoder, 'drain');
  }
  encoder.end();
}

async function offsetOf({ url, token }: SendOrder, path: string): Promise<number> {
  const answer = await fetch(`${url}${path}`, {
    method: 'HEAD',
    headers: { authorization: `Bearer ${token}`, 'tus-resumable': '1.0.0' },
  });
  return Number(answer.headers.get('upload-offset'));
}

async function timeAnswers({ url, token, everyMs }: TimeOrder): Promise<number[]> {
  const timesMs: number[] = [];
  while (!isStopped) {
    const startedMs = performance.now();
    const status = await statusOf(url, token);
    if (status !== 200) throw new Error(`${url} answered ${status}.`);
    timesMs.push(performance.now() - startedMs);
    await delay(everyMs);
  }
  return timesMs;
}

function statusOf(url: string, token: string): Promise<number> {
  return new Promise((resolve, reject) => {
    get(url, { agent, headers: { authorization: `Bearer ${token}` } }, (res) => {
      res.resume().on('end', () => resolve(res.statusCode ?? 0));
    }).on('error', reject);
  });
}
