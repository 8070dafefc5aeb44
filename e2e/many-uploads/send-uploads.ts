/**
 * A process of its own that sends many uploads at once and does little else, so that what is measured beside it is
 * the service. It is told by IPC what to send, and answers with its report.
 */
import { once } from 'node:events';
import { Agent, type ClientRequest, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

export interface SendOrder {
  readonly url: string;
  readonly token: string;
  /** Paths of uploads that stand at 0. */
  readonly uploads: readonly string[];
  readonly sizeBytes: number;
  /** What one PATCH brings. */
  readonly patchBytes: number;
  /** Of each upload; null: as fast as the service takes it. */
  readonly bytesPerSecond: number | null;
}

export interface SendReport {
  /** When the last upload was complete. */
  readonly seconds: number;
  /** Answers of 423 or 503: the upload went on from the offset that HEAD told, as every client does. */
  readonly comeAgain: number;
}

/** Where its lines begin does not matter: no byte is looked into before the load. */
const FILLING = Buffer.alloc(64 * 1024, '{ "pk": "1", "score": "1" }\n');

process.once('message', async (order: SendOrder) => {
  const agent = new Agent({ keepAlive: true });
  const startedMs = performance.now();
  let comeAgain = 0;
  const sendOne = async (path: string, index: number) => {
    const { bytesPerSecond, patchBytes, uploads, sizeBytes } = order;
    // Clients that know nothing of each other do not end their requests all at once.
    if (bytesPerSecond !== null) await delay((index / uploads.length) * (patchBytes / bytesPerSecond) * 1000);
    for (let offset = 0; offset < sizeBytes; ) {
      const bytes = Math.min(patchBytes, sizeBytes - offset);
      const status = await patch(order, agent, path, offset, bytes);
      if (![204, 423, 503].includes(status)) throw new Error(`PATCH answered ${status}.`);
      if (status !== 204) comeAgain += 1;
      offset = status === 204 ? offset + bytes : await offsetOf(order, path);
    }
  };
  await Promise.all(order.uploads.map(sendOne));
  agent.destroy();
  const report: SendReport = { seconds: (performance.now() - startedMs) / 1000, comeAgain };
  process.send?.(report, () => process.disconnect?.());
});

function patch(order: SendOrder, agent: Agent, path: string, offset: number, bytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const req = request(`${order.url}${path}`, {
      method: 'PATCH',
      agent,
      headers: {
        authorization: `Bearer ${order.token}`,
        'tus-resumable': '1.0.0',
        'upload-offset': offset,
        'content-type': 'application/offset+octet-stream',
        'content-length': bytes,
      },
    });
    req.on('error', reject);
    req.on('response', (res) => res.resume().on('end', () => resolve(res.statusCode ?? 0)));
    write(req, bytes, order.bytesPerSecond).catch(reject);
  });
}

async function write(req: ClientRequest, bytes: number, bytesPerSecond: number | null): Promise<void> {
  const startedMs = performance.now();
  for (let sent = 0; sent < bytes; ) {
    const piece = FILLING.subarray(0, Math.min(FILLING.length, bytes - sent));
    sent += piece.length;
    const isTaken = req.write(piece);
    const aheadMs =
      bytesPerSecond === null ? 0 : startedMs + (sent / bytesPerSecond) * 1000 - performance.now();
    if (aheadMs > 0) await delay(aheadMs);
    else if (!isTaken) await once(req, 'drain');
  }
  req.end();
}

async function offsetOf({ url, token }: SendOrder, path: string): Promise<number> {
  const answer = await fetch(`${url}${path}`, {
    method: 'HEAD',
    headers: { authorization: `Bearer ${token}`, 'tus-resumable': '1.0.0' },
  });
  return Number(answer.headers.get('upload-offset'));
}
