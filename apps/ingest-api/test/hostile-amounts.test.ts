import { expect } from 'chai';
import { loadServeConfig } from '../src/config.ts';
import {
  declare,
  manifestOf,
  pushRun,
  runPath,
  type SourceFile,
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

  it('files of one token within a day is 507, whatever became of them, and leaves nothing', () =>
    withLimits({ maxDailyFiles: 650 }, async (system) => {
      const put = async (run: string, files: readonly SourceFile[], as_of?: string) => {
        const json = { ...manifestOf(files), ...(as_of === undefined ? {} : { as_of }) };
        return (await system.request('PUT', runPath('churn', run), { json })).status;
      };
      const empty = Array.from({ length: 250 }, (_, i) => ({ name: `${i}.jsonl`, content: '' }));
      const [first, second] = [[{ name: 'a', content: 'x' }], [{ name: 'a', content: 'y' }]];
      expect(await put('replaced', first), 'counts as 100').to.equal(201);
      expect(await put('replaced', second)).to.equal(201);
      expect(await put('replaced', second), 'the same again adds nothing').to.equal(200);
      expect((await system.request('DELETE', runPath('churn', 'replaced'))).status).to.equal(200);
      expect(await put('of nothing', empty)).to.equal(201);
      expect(await put('shares its bytes', second, '2026-01-31T00:00:00Z')).to.equal(201);
      const posted = () =>
        system.request('POST', '/v1/uploads', {
          headers: {
            'tus-resumable': '1.0.0',
            'upload-length': '0',
            'upload-metadata': ['model churn', 'run posted', 'filename a']
              .map((pair) => pair.split(' '))
              .map(([key, value = '']) => `${key} ${Buffer.from(value).toString('base64')}`)
              .join(),
          },
        });
      expect((await posted()).status).to.equal(201);

      const recorded = async () =>
        (
          await system.query(
            `SELECT (SELECT count(*) FROM ingest.run) AS runs, (SELECT count(*) FROM ingest.run_revision) AS revisions,
               (SELECT count(*) FROM ingest.upload) AS uploads, (SELECT count(*) FROM ingest.audit_event WHERE action = 'declare') AS events`,
          )
        )[0];
      const before = await recorded();
      for (const [run, files, as_of] of [
        ['new', first, undefined],
        ['replaced', first, undefined],
        ['of nothing', first, undefined],
        ['shares its bytes', second, '2026-02-28T00:00:00Z'],
      ] as const)
        expect(await put(run, files, as_of), run).to.equal(507);
      const refused = await posted();
      expect(refused.status).to.equal(507);
      expect(refused.headers.get('retry-after')).to.equal('60');
      expect(((await refused.json()) as { detail: string }).detail)
        .to.contain('would have declared 750 files within 24 hours, 100 of them with this request')
        .and.to.contain('its quota is 650');
      expect(await put('of nothing', empty), 'the same again').to.equal(200);
      expect(await recorded()).to.deep.equal(before);

      const other = await system.createToken({ name: 'other' });
      const theirs = await system.request('PUT', runPath('churn', 'theirs'), {
        json: manifestOf(first),
        token: other,
      });
      expect(theirs.status).to.equal(201);
      await system.query(
        `UPDATE ingest.run_revision SET declared_at = declared_at - interval '1 day' WHERE run_key = 'of nothing'`,
      );
      expect(await put('new', empty), 'a day later').to.equal(201);
    }));

  it('changed contracts of one token within a day is 507; one that stays as it is does not count', () =>
    withLimits({}, async (system) => {
      const operator = (name: string) => system.createToken({ name, scopes: ['operate'] });
      const [one, other] = [await operator('one'), await operator('other')];
      const put = async (maxRows: number, token = one) =>
        (await system.request('PUT', '/v1/models/churn', { json: { maxRows }, token })).status;
      const kept = async () =>
        Number(
          (
            await system.query(
              `SELECT count(*) AS count FROM ingest.audit_event WHERE action = 'set_contract'`,
            )
          )[0]?.count,
        );
      for (let i = 0; i < 3; i += 1) expect(await put(1)).to.equal(200);
      expect(await kept()).to.equal(1);
      await system.query(
        `INSERT INTO ingest.audit_event (actor, action, model) SELECT actor, action, model FROM ingest.audit_event, generate_series(1, 998) WHERE action = 'set_contract'`,
      );
      expect(await put(2)).to.equal(200);
      expect(await put(3)).to.equal(507);
      expect(await put(2), 'the same again').to.equal(200);
      expect(await kept()).to.equal(1_000);
      expect(await put(3, other)).to.equal(200);
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
