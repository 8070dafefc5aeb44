/**
 * A process of its own that asks for something again and again and notes how long each answer took, undisturbed by
 * who sends at the same time. It is told what by IPC; at 'stop' it answers with the times, in ms.
 */
import { Agent, get } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

export interface WatchOrder {
  readonly url: string;
  readonly token: string;
  readonly everyMs: number;
}

let isOver = false;

process.on('message', (message: WatchOrder | 'stop') => {
  if (message === 'stop') isOver = true;
  else void watch(message);
});

async function watch(order: WatchOrder): Promise<void> {
  const agent = new Agent({ keepAlive: true });
  const timesMs: number[] = [];
  while (!isOver) {
    const askedMs = performance.now();
    const status = await ask(order, agent);
    if (status !== 200) throw new Error(`${order.url} answered ${status}.`);
    timesMs.push(performance.now() - askedMs);
    await delay(order.everyMs);
  }
  agent.destroy();
  process.send?.(timesMs, () => process.disconnect?.());
}

function ask({ url, token }: WatchOrder, agent: Agent): Promise<number> {
  return new Promise((resolve, reject) => {
    get(url, { agent, headers: { authorization: `Bearer ${token}` } }, (res) => {
      res.resume().on('end', () => resolve(res.statusCode ?? 0));
    }).on('error', reject);
  });
}
