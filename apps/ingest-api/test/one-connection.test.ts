import { expect } from 'chai';
import { openDatabase } from 'db-schema';
import { removeFiles } from '../src/runs/expiry.ts';
import { queueCompleteRevisions } from '../src/runs/transitions.ts';
import { setBackAllShort } from '../src/runs/uploads.ts';
import { folderStore } from '../src/store/folder.ts';
import {
  createdPath,
  getRun,
  patch,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const MODELS = 24;

/**
 * Whoever holds a connection of the pool and asks for another one waits for others who do the same. On a pool of one
 * that hangs at once; `support/system.ts` gives every test of the service such a pool. Here everything is asked at the same time.
 */
describe('on a pool of one connection', () => {
  let system: TestSystem;
  let operator: string;
  before(async () => {
    system = await startSystem({ databaseConnections: 1 });
    operator = await system.createToken({ name: 'operator', scopes: ['operate', 'admin'] });
    system.startLoader({ sideConnections: 1 });
  });
  after(() => system.stop());

  const models = Array.from({ length: MODELS }, (_, index) => `model_${index}`);

  it('many runs at once are declared, received, loaded and published, and the service is ready all the time', async () => {
    let isOver = false;
    const slowProbes: number[] = [];
    const probing = (async () => {
      while (!isOver) {
        const startedMs = performance.now();
        expect((await system.request('GET', '/readyz')).status).to.equal(200);
        const tookMs = performance.now() - startedMs;
        if (tookMs > 1_000) slowProbes.push(tookMs);
      }
    })();
    await Promise.all(
      models.map((model) => pushRun(system, model, '2026-11', [{ name: 'a.jsonl', content: scoreLines(3) }])),
    );
    for (const model of models)
      expect((await untilFinal(system, model, '2026-11')).state, model).to.equal('published');
    isOver = true;
    await probing;
    expect(slowProbes).to.deep.equal([]);
  });

  it('plain tus uploads, looks, contracts, publications, retries and withdrawals of all of them run beside each other', async () => {
    const answers = await Promise.all(
      models.flatMap((model) => [
        plainUpload(model),
        system.request('GET', runPath(model, '2026-11')),
        system.request('GET', `${runPath(model, '2026-11')}/history`),
        system.request('GET', '/v1/status'),
        system.request('GET', '/v1/runs'),
        system.request('GET', '/metrics', { token: operator }),
        system.request('PUT', `/v1/models/${model}`, { json: { minRows: 1 }, token: operator }),
        system.request('PUT', `/v1/models/${model}/current`, {
          json: { run: '2026-11', reason: 'again' },
          token: operator,
        }),
      ]),
    );
    expect(answers.map(({ status }) => status).filter((status) => status >= 400)).to.deep.equal([]);
    const withdrawn = await Promise.all(
      models.map((model) => system.request('DELETE', runPath(model, 'plain'), { token: operator })),
    );
    expect(withdrawn.map(({ status }) => status)).to.deep.equal(models.map(() => 200));
  });

  it('the finish hook and every sweep do their work', async () => {
    const { db } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'test',
      maxConnections: 1,
      onIdleError: () => {},
    });
    const store = folderStore(system.dataDir);
    try {
      await Promise.all([
        queueCompleteRevisions(db, 'all'),
        setBackAllShort(db, store),
        removeFiles(db, store, { keepFilesMs: 0, expireUploadsMs: 0 }),
      ]);
    } finally {
      await db.destroy();
    }
    expect((await getRun(system, 'model_0', '2026-11')).state).to.equal('published');
  });

  async function plainUpload(model: string): Promise<Response> {
    const text = (value: string) => Buffer.from(value).toString('base64');
    const created = await system.request('POST', '/v1/uploads', {
      headers: {
        'tus-resumable': '1.0.0',
        'upload-length': '5',
        'upload-metadata': `model ${text(model)},run ${text('plain')},filename ${text('a.jsonl')}`,
      },
    });
    return patch(system, createdPath(created), 0, Buffer.from('{"pk"'.slice(0, 2)));
  }
});
