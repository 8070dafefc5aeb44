import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import { openDatabase } from 'db-schema';
import express from 'express';
import { eventRoutes } from '../src/http/events.ts';
import { Principals } from '../src/runs/tokens.ts';
import { RunWatch } from '../src/runs/watch.ts';
import { openSocket } from './support/raw-http.ts';
import {
  declare,
  eventually,
  pushRun,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

/** Of the watch, at rest (`runs/watch.ts`). */
const AFTER_TWO_POLLS_MS = 5_000;

interface ServerEvent {
  readonly id: string;
  readonly event: string;
  readonly data: { readonly model?: string; readonly run?: string; readonly state?: string };
}

/** Reads events until `isEnough`; the stream is closed then. */
async function readEvents(
  system: TestSystem,
  isEnough: (events: readonly ServerEvent[]) => boolean,
  { token = system.token, lastEventId = '' } = {},
): Promise<readonly ServerEvent[]> {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), 30_000);
  const headers = {
    authorization: `Bearer ${token}`,
    ...(lastEventId ? { 'last-event-id': lastEventId } : {}),
  };
  const answer = await fetch(new URL('/v1/events', system.url), { headers, signal: controller.signal });
  expect(answer.headers.get('content-type')).to.match(/^text\/event-stream/);
  const events: ServerEvent[] = [];
  let text = '';
  for await (const chunk of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += chunk;
    const blocks = text.split('\n\n');
    text = blocks.pop() ?? '';
    for (const block of blocks) {
      const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1] ?? '';
      if (field('event') === '') continue;
      events.push({ id: field('id'), event: field('event'), data: JSON.parse(field('data')) });
    }
    if (isEnough(events)) break;
  }
  clearTimeout(timer);
  controller.abort();
  return events;
}

const hasRun = (model: string) => (events: readonly ServerEvent[]) =>
  events.some(({ data }) => data.model === model);

describe('live events', () => {
  let system: TestSystem;

  before(async () => {
    system = await startSystem();
  });

  after(() => system.stop());

  it('report a run that was declared, and continue after Last-Event-ID', async () => {
    const [reset] = await readEvents(system, (events) => events.length > 0);
    expect(reset?.event).to.equal('reset');

    const listening = readEvents(system, hasRun('churn'));
    await declare(system, 'churn', '1', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    const event = (await listening).at(-1);
    expect(event?.data).to.include({ model: 'churn', run: '1', state: 'receiving' });

    const missed = readEvents(system, hasRun('fraud'), { lastEventId: event?.id ?? '' });
    await declare(system, 'fraud', '1', [{ name: 'a.jsonl', content: scoreLines(4) }]);
    const heard = await missed;
    expect(heard.map(({ event }) => event)).to.not.include('reset');
    expect(heard.at(-1)?.data).to.include({ model: 'fraud' });
  });

  it('say that all must be read again to a client of another process', async () => {
    const [first] = await readEvents(system, (events) => events.length > 0, { lastEventId: 'other-7' });
    expect(first?.event).to.equal('reset');
  });

  it('tell a token nothing of models that it does not cover', async () => {
    const token = await system.createToken({ name: 'one', models: ['uplift' as never] });
    const listening = readEvents(system, hasRun('uplift'), { token });
    await declare(system, 'churn', '2', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    await declare(system, 'uplift', '1', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    const models = (await listening).flatMap(({ data }) => data.model ?? []);
    expect(new Set(models)).to.deep.equal(new Set(['uplift']));
  });

  it('report the run that another one replaced', async () => {
    system.startLoader();
    const push = async (run: string) => {
      await pushRun(system, 'order', run, [{ name: 'a.jsonl', content: scoreLines(3) }]);
      await untilFinal(system, 'order', run);
    };
    await push('2026-10');
    const listening = readEvents(system, (events) => events.some(({ data }) => data.state === 'superseded'));
    await delay(AFTER_TWO_POLLS_MS); // what its own actions have reported is behind it
    await push('2026-11');
    expect((await listening).at(-1)?.data).to.include({
      model: 'order',
      run: '2026-10',
      state: 'superseded',
    });
  });

  it('are ten streams a token at most, and one more when one is closed', async () => {
    const token = await system.createToken({ name: 'many', scopes: ['read'] });
    const open: AbortController[] = [];
    const answers: Response[] = []; // held: fetch closes an answer that nobody holds any more
    const stream = async (secret = token) => {
      const controller = new AbortController();
      open.push(controller);
      const answer = await fetch(new URL('/v1/events', system.url), {
        headers: { authorization: `Bearer ${secret}` },
        signal: controller.signal,
      });
      answers.push(answer);
      return answer;
    };
    for (let i = 0; i < 10; i += 1) expect((await stream()).status).to.equal(200);
    const refused = await stream();
    expect(refused.status).to.equal(429);
    expect(refused.headers.get('retry-after')).to.equal('30');
    expect(((await refused.json()) as { detail: string }).detail).to.contain('has 10 event streams open');
    expect((await stream(system.token)).status).to.equal(200);
    open[0]?.abort();
    await eventually(stream, ({ status }) => status === 200);
    for (const controller of open) controller.abort();
  });

  describe('to a client that does not read', () => {
    const RUNS = 40;
    let server: Server;
    let close: () => Promise<void>;
    let responses: ServerResponse[];

    before(async () => {
      const { db } = openDatabase({
        databaseUrl: system.databaseUrl,
        role: 'ingest_api',
        applicationName: 'events',
        maxConnections: 1,
        onIdleError: () => {},
      });
      let isOver = false;
      const watch = new RunWatch({ db, isStopping: () => isOver, onFault: () => {} }).start();
      const principals = new Principals(db);
      const app = express();
      app.use(async (_req, res, next) => {
        res.locals.principal = await principals.find('token', system.token);
        next();
      });
      app.use(eventRoutes({ watch, principals, drainWithinMs: 2_000 }));
      responses = [];
      server = createServer(app).on('request', (_req, res) => responses.push(res));
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      close = async () => {
        isOver = true;
        server.closeAllConnections();
        server.close();
        await db.destroy();
      };
      for (let i = 0; i < RUNS; i += 1)
        await declare(system, 'large', String(i), [{ name: 'a.jsonl', content: scoreLines(1, i + 1) }]);
    });
    after(() => close());

    /**
     * Makes every run of the model an event of 200 kB, so that few of them are more than the buffers of the network
     * hold. A real event is some kB: the name of a worker is the one text in it that is not cut, as loaders give it.
     */
    const change = (mark: string) =>
      system.query(
        `INSERT INTO ingest.load_attempt (revision_id, attempt, worker)
         SELECT revision_id, 1, $1 || repeat('x', 200000) FROM ingest.run_revision WHERE model = 'large'
         ON CONFLICT (revision_id, attempt) DO UPDATE SET worker = excluded.worker`,
        [mark],
      );

    async function listen() {
      const socket = await openSocket(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
      socket.write('GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n');
      await once(socket, 'data');
      socket.pause();
      const res = responses.at(-1);
      if (res === undefined) throw new Error('The request did not arrive.');
      return { socket, res };
    }

    it('keep next to nothing, and are ended', async () => {
      const { socket, res } = await listen();
      let mostBytes = 0;
      await eventually(
        async () => {
          await change(`now ${Date.now()} `);
          mostBytes = Math.max(mostBytes, res.writableLength);
          return res.destroyed;
        },
        (isEnded) => isEnded,
        15_000,
      );
      expect(mostBytes).to.be.within(1, 1024 * 1024);
      socket.destroy();
    });

    it('continue, without a gap, when it reads again in time', async () => {
      const { socket, res } = await listen();
      await eventually(
        async () => {
          await change(`late ${Date.now()} `);
          return res.writableNeedDrain;
        },
        (isHeldBack) => isHeldBack,
      );
      await change('the last ');
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1');
      });
      socket.resume();
      const lastOnes = async () => text.split('"worker":"the last ').length - 1;
      await eventually(lastOnes, (count) => count === RUNS);
      const ids = [...text.matchAll(/^id: [0-9a-f]+-(\d+)$/gm)].map(([, id]) => Number(id));
      expect(ids).to.deep.equal(ids.map((_, i) => (ids[0] ?? 0) + i));
      expect(text).not.to.contain('event: reset');
      expect(res.destroyed).to.equal(false);
      socket.destroy();
    });
  });
});
