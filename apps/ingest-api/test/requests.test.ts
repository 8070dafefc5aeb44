import { expect } from 'chai';
import { manifestOf, runPath, scoreLines, startSystem, type TestSystem } from './support/system.ts';

describe('the service', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  const manifest = manifestOf([{ name: 'a.jsonl', content: scoreLines(3) }]);

  it('answers the probes and the page to anybody, and no data', async () => {
    for (const probe of ['/livez', '/readyz']) {
      expect((await system.request('GET', probe, { token: null })).status).to.equal(200);
    }
    const others = [
      ['GET', '/v1/status'],
      ['GET', '/v1/runs'],
      ['GET', '/v1/events'],
      ['GET', `${runPath('churn', 'r')}/history`],
      ['GET', runPath('churn', 'r')],
      ['PUT', runPath('churn', 'r')],
      ['POST', '/v1/uploads'],
      ['PATCH', '/v1/uploads/x'],
      ['OPTIONS', '/v1/uploads'],
      ['GET', '/nothing'],
    ] as const;
    for (const [method, path] of others) {
      for (const token of [null, 'si_wrong', 'no token at all']) {
        const answer = await system.request(method, path, { token });
        expect(answer.status, `${method} ${path} with ${token}`).to.equal(401);
        expect(answer.headers.get('www-authenticate')).to.equal('Bearer');
      }
    }
  });

  it('does not know a token that has expired or was revoked', async () => {
    const expired = await system.createToken({ name: 'expired', expiresAt: new Date(Date.now() - 1) });
    const revoked = await system.createToken({ name: 'revoked' });
    await system.query(`UPDATE ingest.api_token SET revoked_at = now() WHERE name = 'revoked'`);
    for (const token of [expired, revoked]) {
      expect((await system.request('GET', runPath('churn', 'r'), { token })).status).to.equal(401);
    }
  });

  it('lets a token that may only read declare nothing', async () => {
    const reader = await system.createToken({ name: 'reader', scopes: ['read'] });
    const refused = await system.request('PUT', runPath('churn', 'r'), { json: manifest, token: reader });
    expect(refused.status).to.equal(403);
    expect(await refused.json()).to.include({ code: 'forbidden', retryable: false });
  });

  it('keeps no token in the database, but its hash', async () => {
    const rows = await system.query('SELECT * FROM ingest.api_token');
    expect(JSON.stringify(rows)).not.to.contain(system.token);
  });

  it('names every fault of a manifest and where it is', async () => {
    const answer = await system.request('PUT', runPath('churn', 'r'), {
      json: { files: [{ name: '../a', bytes: -1, sha256: 'AB', lines: 1.5 }], extra: 1 },
    });
    expect(answer.status).to.equal(400);
    const problem = (await answer.json()) as { detail: string; request_id: string };
    for (const part of ['files.0.name', 'files.0.bytes', 'files.0.sha256', 'files.0.lines', 'extra']) {
      expect(problem.detail).to.contain(part);
    }
    expect(problem.request_id).to.equal(answer.headers.get('x-request-id'));
  });

  it('refuses what is not JSON, no file, a file twice, a strange model and a strange run', async () => {
    const [file] = manifest.files;
    const bad: [string, unknown][] = [
      [runPath('churn', 'r'), { files: [] }],
      [runPath('churn', 'r'), { files: [file, file] }],
      [runPath('churn', 'r'), { ...manifest, as_of: 'yesterday' }],
      [runPath('churn', 'r'), [1, 2]],
      ['/v1/models/Not-A-Model/runs/r', manifest],
      [runPath('churn', 'x'.repeat(201)), manifest],
      [runPath('churn', 'bell\u0007'), manifest],
    ];
    for (const [path, json] of bad) {
      expect(
        (await system.request('PUT', path, { json })).status,
        `${path} ${JSON.stringify(json)}`,
      ).to.equal(400);
    }
    const noJson = await system.request('PUT', runPath('churn', 'r'), {
      body: '{"files":',
      headers: { 'content-type': 'application/json' },
    });
    expect(noJson.status).to.equal(400);
    expect((await system.request('PUT', '/v1/models/churn/runs/%ff', { json: manifest })).status).to.equal(
      400,
    );
  });

  it('takes a run key with spaces, slashes and percent signs as it is', async () => {
    const run = 'scheduled__2026-11-01T00:00:00+00:00 50%/ä';
    const declared = await system.request('PUT', runPath('churn', run), { json: manifest });
    expect(declared.status).to.equal(201);
    expect(await (await system.request('GET', runPath('churn', run))).json()).to.include({
      run,
      state: 'receiving',
    });
    expect((await system.request('PUT', runPath('churn', run), { json: manifest })).status).to.equal(200);
  });

  it('has no run that was never declared, and nothing at other addresses', async () => {
    expect((await system.request('GET', runPath('churn', 'never'))).status).to.equal(404);
    expect((await system.request('GET', '/v2')).status).to.equal(404);
  });
});
