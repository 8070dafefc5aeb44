import { expect } from 'chai';
import { loadServeConfig } from '../src/config.ts';
import {
  declare,
  manifestOf,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
} from './support/system.ts';

const { guard } = loadServeConfig({ DATABASE_URL: 'postgres://', INGEST_DATA_DIR: '.' });

/** The service with other limits than the usual ones, for the time of `work`. */
async function withLimits(limits: Partial<typeof guard>, work: (system: TestSystem) => Promise<void>) {
  const system = await startSystem({ guard: { ...guard, ...limits } });
  try {
    await work(system);
  } finally {
    await system.stop();
  }
}

const get = (system: TestSystem, token: string | null, headers = {}) =>
  system.request('GET', runPath('churn', 'r'), { token, headers });

describe('too much', () => {
  it('by one token is 429 with the time to wait; other tokens continue', () =>
    withLimits({ ratePerMinute: 5 }, async (system) => {
      const other = await system.createToken({ name: 'other' });
      const statuses = [];
      for (let i = 0; i < 7; i += 1) statuses.push((await get(system, system.token)).status);
      expect(statuses).to.deep.equal([404, 404, 404, 404, 404, 429, 429]);
      const refused = await get(system, system.token);
      expect(Number(refused.headers.get('retry-after'))).to.be.within(1, 60);
      expect(refused.headers.get('ratelimit')).to.match(/^"token"; r=0; t=\d+$/);
      expect(await refused.json()).to.include({ code: 'rate_limited', retryable: true });
      expect((await get(system, other)).headers.get('ratelimit')).to.match(/r=4/);
    }));

  it('from an address without a valid token is 429, but not for a valid token of that address', () =>
    withLimits({ failedLoginsPerMinute: 3 }, async (system) => {
      expect((await get(system, system.token)).status).to.equal(404);
      const statuses = [];
      for (let i = 0; i < 5; i += 1) statuses.push((await get(system, 'si_wrong')).status);
      expect(statuses).to.deep.equal([401, 401, 401, 429, 429]);
      // A forged header makes it no other address, as nobody said that a proxy is to be believed.
      const forged = await get(system, 'si_wrong', { 'x-forwarded-for': '203.0.113.9' });
      expect(forged.status).to.equal(429);
      expect((await get(system, system.token)).status).to.equal(404);
      expect((await system.request('GET', '/readyz', { token: null })).status).to.equal(200);
    }));

  it('is counted for the address that a trusted proxy reports, and for no other that a client adds', () =>
    withLimits({ failedLoginsPerMinute: 1, trustedProxies: ['127.0.0.1'] }, async (system) => {
      const from = (address: string) => get(system, 'si_wrong', { 'x-forwarded-for': address });
      expect((await from('203.0.113.1')).status).to.equal(401);
      expect((await from('203.0.113.1')).status).to.equal(429);
      expect((await from('203.0.113.2')).status).to.equal(401);
      expect((await from('198.51.100.7, 203.0.113.2')).status, 'the last one is what the proxy saw').to.equal(
        429,
      );
    }));

  it('unfinished uploads of one token is 507; finishing some makes room', () =>
    withLimits({ maxOpenUploads: 3 }, async (system) => {
      const files = (count: number, first: number) =>
        Array.from({ length: count }, (_, i) => ({ name: `${i}.jsonl`, content: scoreLines(1, first + i) }));
      await declare(system, 'churn', 'open', files(2, 1));
      const refused = await system.request('PUT', runPath('churn', 'more'), {
        json: manifestOf(files(2, 10)),
      });
      expect(refused.status).to.equal(507);
      expect(refused.headers.get('retry-after')).to.equal('60');
      expect(await refused.json()).to.include({ code: 'quota_exceeded', retryable: true });
      const other = await system.createToken({ name: 'other' });
      expect(
        (
          await system.request('PUT', runPath('churn', 'theirs'), {
            json: manifestOf(files(2, 20)),
            token: other,
          })
        ).status,
      ).to.equal(201);
      await pushRun(system, 'churn', 'open', files(2, 1));
      await declare(system, 'churn', 'more', files(2, 10));
    }));

  it('promised bytes of one token is 507, by manifest and by a plain POST', () =>
    withLimits({ maxTokenBytes: 1_000 }, async (system) => {
      await declare(system, 'churn', 'open', [{ name: 'a', content: 'x'.repeat(900) }]);
      const refused = await system.request('PUT', runPath('churn', 'more'), {
        json: manifestOf([{ name: 'a', content: 'y'.repeat(200) }]),
      });
      expect(refused.status).to.equal(507);
      const base64 = (text: string) => Buffer.from(text).toString('base64');
      const posted = await system.request('POST', '/v1/uploads', {
        headers: {
          'tus-resumable': '1.0.0',
          'upload-length': '200',
          'upload-metadata': `model ${base64('churn')},run ${base64('posted')},filename ${base64('a')}`,
        },
      });
      expect(posted.status).to.equal(507);
      expect(((await posted.json()) as { detail: string }).detail).to.contain('INGEST_MAX_TOKEN_BYTES');
    }));
});
