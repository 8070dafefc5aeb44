import { setTimeout as delay } from 'node:timers/promises';

/** Light enough not to be what is measured. */
const POLL_EVERY_MS = 50;

/** What a person who watches the service, and the service itself, went through meanwhile. */
export interface Probed {
  readonly statusMs: readonly number[];
  /** Node's own histogram of that time; with nothing to do it stands at its resolution of 10 ms. */
  readonly eventLoopMs: { readonly p50: number; readonly p99: number; readonly max: number };
}

/** Asks `GET /v1/status` again and again until `work` has ended. */
export async function probeDuring(
  { url, token }: { url: string; token: string },
  work: Promise<unknown>,
): Promise<Probed> {
  const headers = { authorization: `Bearer ${token}` };
  const metrics = async () => (await fetch(`${url}/metrics`, { headers })).text();
  await metrics(); // each reading begins the histogram anew
  const statusMs: number[] = [];
  let isOver = false;
  const end = () => {
    isOver = true;
  };
  work.then(end, end);
  while (!isOver) {
    const startedMs = performance.now();
    const response = await fetch(`${url}/v1/status`, { headers });
    await response.arrayBuffer();
    if (!response.ok) throw new Error(`GET ${url}/v1/status answered ${response.status}.`);
    statusMs.push(performance.now() - startedMs);
    await delay(POLL_EVERY_MS);
  }
  await work;
  const text = await metrics();
  const lagMs = (name: string) => {
    const [, seconds] = new RegExp(`^nodejs_eventloop_lag_${name}_seconds (\\S+)`, 'm').exec(text) ?? [];
    return Number(seconds) * 1000;
  };
  return { statusMs, eventLoopMs: { p50: lagMs('p50'), p99: lagMs('p99'), max: lagMs('max') } };
}
