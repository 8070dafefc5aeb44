import { expect } from 'chai';
import type { Scope } from 'db-schema';
import {
  declare,
  eventually,
  patch,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
} from './support/system.ts';

describe('who may end whose run', () => {
  let system: TestSystem;
  const tokens = new Map<string, string>();
  let made = 0;
  const newContent = () => {
    made += 1;
    return scoreLines(2, made * 10);
  };

  before(async () => {
    system = await startSystem();
    const scopes: Record<string, Scope[]> = {
      owner: ['push'],
      'other-push': ['push'],
      'push-and-operate': ['push', 'operate'],
      operator: ['operate'],
      admin: ['admin'],
      reader: ['read'],
    };
    for (const [name, its] of Object.entries(scopes))
      tokens.set(name, await system.createToken({ name, scopes: its }));
  });
  after(() => system.stop());

  const as = (name: string): TestSystem => Object.create(system, { token: { value: tokens.get(name) } });

  interface Declared {
    readonly run: string;
    readonly uploadUrl: string;
  }

  async function declareAs(name: string, content = newContent()): Promise<Declared> {
    made += 1;
    const run = `run-${made}`;
    const { missing } = await declare(as(name), 'churn', run, [{ name: 'a.jsonl', content }]);
    return { run, uploadUrl: missing.files[0]?.uploadUrl ?? '' };
  }

  /** Every route that ends a run that is named by it. */
  const ROUTES: Record<string, (token: TestSystem, declared: Declared) => Promise<Response>> = {
    'DELETE of the run': (token, { run }) => token.request('DELETE', runPath('churn', run)),
    'DELETE of its upload': (token, { uploadUrl }) =>
      token.request('DELETE', uploadUrl, { headers: { 'tus-resumable': '1.0.0' } }),
  };

  const stateOf = async ({ run }: Declared) =>
    (await system.query('SELECT state FROM ingest.run_revision WHERE run_key = $1', [run]))[0]?.state;

  for (const [route, end] of Object.entries(ROUTES)) {
    it(`${route}: push ends its own run, while it is received; operate ends anybody's`, async () => {
      const may = {
        owner: true,
        'other-push': false,
        'push-and-operate': true,
        operator: true,
        admin: true,
        reader: false,
      };
      for (const [who, allowed] of Object.entries(may)) {
        const declared = await declareAs('owner');
        const answer = await end(as(who), declared);
        expect(answer.status, `${who}: ${await answer.text()}`).to.be.oneOf(allowed ? [200, 204] : [403]);
        expect(await stateOf(declared), who).to.equal(allowed ? 'cancelled' : 'receiving');
      }
    });

    it(`${route}: push ends no run of its own that has all its files`, async () => {
      const content = newContent();
      const declared = await declareAs('owner', content);
      expect((await patch(as('owner'), declared.uploadUrl, 0, Buffer.from(content))).status).to.equal(204);
      const answer = await end(as('owner'), declared);
      expect(answer.status).to.be.oneOf([403, 409]); // 409: an upload that is finished
      expect(await stateOf(declared)).to.equal('queued');
    });

    it(`${route}: the audit names the model, the run and the revision`, async () => {
      const declared = await declareAs('owner');
      await end(as('operator'), declared);
      const events = await system.query(
        `SELECT actor, model, revision, detail->>'was' AS was FROM ingest.audit_event
         WHERE run_key = $1 AND action = 'withdraw'`,
        [declared.run],
      );
      expect(events).to.deep.equal([{ actor: 'operator', model: 'churn', revision: 1, was: 'receiving' }]);
    });
  }

  it('an upload that runs of two tokens share is ended by operate alone, with all of these runs', async () => {
    const content = newContent();
    const [first, second] = [await declareAs('owner', content), await declareAs('other-push', content)];
    expect(first.uploadUrl).to.equal(second.uploadUrl);
    const end = ROUTES['DELETE of its upload'] as (typeof ROUTES)[string];
    for (const who of ['owner', 'other-push']) expect((await end(as(who), first)).status, who).to.equal(403);
    expect([await stateOf(first), await stateOf(second)]).to.deep.equal(['receiving', 'receiving']);
    expect((await end(as('operator'), first)).status).to.equal(204);
    expect([await stateOf(first), await stateOf(second)]).to.deep.equal(['cancelled', 'cancelled']);
    const [event] = await system.query(
      `SELECT model, detail FROM ingest.audit_event WHERE action = 'remove_upload' AND detail->>'uploadId' = $1`,
      [first.uploadUrl.split('/').at(-1)],
    );
    expect(event?.model).to.equal('churn');
    expect(event?.detail).to.deep.include({
      runsEnded: 2,
      runs: [first, second].map(({ run }) => ({ run, revision: 1 })),
    });
  });

  it('an upload that no run waits for any more is ended by whom it was made for, or by operate', async () => {
    const declared = await declareAs('owner');
    await as('owner').request('DELETE', runPath('churn', declared.run));
    const end = ROUTES['DELETE of its upload'] as (typeof ROUTES)[string];
    expect((await end(as('other-push'), declared)).status).to.equal(403);
    expect((await end(as('owner'), declared)).status).to.equal(204);
  });

  it('a refusal is in the audit, with the address that was asked for', async () => {
    const declared = await declareAs('owner');
    for (const end of Object.values(ROUTES)) await end(as('other-push'), declared);
    const refused = () =>
      system.query(
        `SELECT FROM ingest.audit_event WHERE action = 'deny' AND actor = 'other-push' AND detail->>'path' IN ($1, $2)`,
        [runPath('churn', declared.run), declared.uploadUrl],
      );
    await eventually(refused, (rows) => rows.length === 2);
  });
});
