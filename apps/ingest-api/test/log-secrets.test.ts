import { once } from 'node:events';
import { expect } from 'chai';
import { pino } from 'pino';
import { serve } from '../src/commands/serve.ts';
import { loadServeConfig } from '../src/config.ts';
import { eventually, startSystem, type TestSystem } from './support/system.ts';

/** The log of a service of its own on the system's database, at its most talkative. */
async function startTalkativeService(system: TestSystem) {
  const lines: string[] = [];
  const controller = new AbortController();
  const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) });
  const config = loadServeConfig({
    DATABASE_URL: system.databaseUrl,
    INGEST_DATA_DIR: system.dataDir,
    INGEST_PORT: '0',
    INGEST_MIN_FREE_BYTES: '0',
  });
  const running = serve(config, log, controller.signal);
  const listening = await eventually(
    async () => lines.find((line) => line.includes('"listening"')),
    (line) => line !== undefined,
  );
  const { port } = JSON.parse(listening ?? '{}') as { port: number };
  return {
    url: `http://127.0.0.1:${port}`,
    lines,
    async stop() {
      controller.abort();
      if (!controller.signal.aborted) await once(controller.signal, 'abort');
      await running;
    },
  };
}

describe('the log', () => {
  let system: TestSystem;
  let service: Awaited<ReturnType<typeof startTalkativeService>>;

  before(async () => {
    system = await startSystem();
    service = await startTalkativeService(system);
  });

  after(async () => {
    await service.stop();
    await system.stop();
  });

  it('never has a token, wherever a client puts it', async () => {
    const canary = 'si_canary0123456789canary';
    const sessions: string[] = [];
    for (const secret of [canary, system.token]) {
      const send = (path: string, init: RequestInit = {}) => fetch(new URL(path, service.url), init);
      const bearer = { authorization: `Bearer ${secret}` };
      const body = JSON.stringify({ token: secret });
      await send('/v1/status', { headers: bearer });
      await send('/v1/status', { headers: { authorization: `Basic ${secret}` } });
      await send('/v1/status', { headers: { cookie: `ingest_session=${secret}` } });
      await send('/session', { headers: { cookie: `__Host-ingest_session=${secret}` } });
      await send(`/v1/status?token=${secret}`, { headers: bearer });
      const json = { 'content-type': 'application/json', 'sec-fetch-site': 'same-origin' };
      const signedIn = await send('/session', { method: 'POST', headers: json, body });
      const cookie = signedIn.headers.get('set-cookie')?.split(';')[0];
      if (cookie !== undefined) {
        sessions.push(cookie.split('=')[1] ?? '');
        await send('/v1/status', { headers: { cookie } });
        await send('/session', { method: 'DELETE', headers: { ...json, cookie } });
        await send('/v1/status', { headers: { cookie } });
      }
      await send('/session', { method: 'POST', headers: json, body: body.slice(0, -1) });
      await send('/v1/models/churn/runs/r', { method: 'PUT', headers: { ...bearer, ...json }, body });
    }
    await eventually(
      async () => service.lines.filter((line) => line.includes('"msg":"request"')).length,
      (count) => count >= 19,
    );
    const log = service.lines.join('');
    expect(log).to.not.include(canary);
    expect(log).to.not.include(system.token);
    expect(sessions).to.have.length(1);
    expect(log).to.not.include(sessions[0]);
    const audit = await system.query('SELECT detail::text FROM ingest.audit_event');
    for (const secret of ['canary', system.token, ...sessions])
      expect(JSON.stringify(audit)).to.not.include(secret);
  });

  it('has one line a request, with its id, what it was about, and whose token', async () => {
    await fetch(new URL('/v1/models/churn/runs/2026-11', service.url), {
      headers: { authorization: `Bearer ${system.token}`, 'x-request-id': 'find-me' },
    });
    const line = await eventually(
      async () => service.lines.filter((text) => text.includes('find-me')),
      (found) => found.length === 1,
    );
    expect(JSON.parse(line[0] ?? '')).to.include({
      requestId: 'find-me',
      method: 'GET',
      status: 404,
      model: 'churn',
      run: '2026-11',
      token: 'tester',
      problem: 'not_found',
    });
  });
});
