import { expect } from 'chai';
import fc from 'fast-check';
import {
  declare,
  eventually,
  getRun,
  listFiles,
  patch,
  scoreLines,
  type TestSystem,
} from '../support/system.ts';
import { LifeModel, type Revision } from './life-model.ts';

const RUNS = 3;
export const CONTENTS: readonly string[] = [20, 35, 50].map((rows) => scoreLines(rows, rows));

const run = fc.nat(RUNS - 1);

/** What may happen next. `patch` and `delete` mean the upload of the run's newest revision. */
export const step = fc.oneof(
  fc.record({ do: fc.constant('declare'), run, content: fc.nat(CONTENTS.length - 1) }),
  fc.record({ do: fc.constant('patch'), run, share: fc.constantFrom(0, 0.3, 0.7, 1) }),
  fc.record({ do: fc.constant('patch at a wrong offset'), run }),
  fc.record({ do: fc.constant('delete'), run }),
  fc.record({ do: fc.constant('publish by hand'), run }),
  fc.record({ do: fc.constant('load') }),
  fc.record({ do: fc.constant('lose the finish hook, and sweep'), run }),
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

/** One life: the same steps done to the model and to the real service, compared after each. */
export class Life {
  readonly #system: TestSystem;
  readonly #operator: string;
  readonly #name: string;
  readonly #model = new LifeModel(CONTENTS.map((content) => Buffer.byteLength(content)));
  /** Where the service takes a run's newest file. */
  readonly #urls = new Map<number, string>();

  constructor(system: TestSystem, operator: string, name: string) {
    this.#system = system;
    this.#operator = operator;
    this.#name = name;
  }

  async take(next: Step): Promise<void> {
    if (next.do === 'load') await this.#load();
    else if ('content' in next) await this.#declare(next.run, next.content);
    else if ('run' in next) {
      const newest = this.#model.newest(next.run);
      if (newest === undefined) return;
      if ('share' in next) await this.#patch(newest, next.share);
      else if (next.do === 'patch at a wrong offset') await this.#patchWrongly(newest);
      else if (next.do === 'delete') await this.#delete(newest);
      else if (next.do === 'publish by hand') await this.#publish(newest);
      else await this.#sweep(newest);
    }
    await this.#compare();
  }

  async #declare(runNumber: number, content: number): Promise<void> {
    const file = { name: 'a.jsonl', content: CONTENTS[content] ?? '' };
    const before = this.#model.newest(runNumber)?.revision;
    const isNew = this.#model.declare(runNumber, content);
    const answer = await declare(this.#system, this.#name, `run ${runNumber}`, [file]);
    expect(answer.revision !== before, 'a new revision').to.equal(isNew);
    const [declared] = await listFiles(this.#system, this.#name, `run ${runNumber}`);
    this.#urls.set(runNumber, declared?.uploadUrl ?? '');
  }

  /** Sends a share of what is missing. */
  async #patch({ run: runNumber, content }: Revision, share: number): Promise<void> {
    const bytes = Buffer.from(CONTENTS[content] ?? '');
    const url = this.#urls.get(runNumber) ?? '';
    const offset = await this.#headOffset(url);
    if (offset === undefined) return;
    const to = offset + Math.ceil((bytes.length - offset) * share);
    const { status } = await patch(this.#system, url, offset, bytes.subarray(offset, to));
    expect(status).to.equal(204);
    this.#model.receive(content, to - offset);
  }

  async #patchWrongly({ run: runNumber }: Revision): Promise<void> {
    const url = this.#urls.get(runNumber) ?? '';
    const offset = await this.#headOffset(url);
    if (offset === undefined) return;
    expect((await patch(this.#system, url, offset + 1, Buffer.from('x'))).status).to.be.oneOf([409, 413]);
  }

  async #delete({ run: runNumber, content }: Revision): Promise<void> {
    const url = this.#urls.get(runNumber) ?? '';
    if ((await this.#headOffset(url)) === undefined) return;
    const isComplete = this.#model.isComplete(content);
    const { status } = await this.#system.request('DELETE', url, { headers: { 'tus-resumable': '1.0.0' } });
    expect(status).to.equal(isComplete ? 409 : 204);
    if (!isComplete) this.#model.giveUp(content);
  }

  async #publish(newest: Revision): Promise<void> {
    const { status } = await this.#system.request('PUT', `/v1/models/${this.#name}/current`, {
      token: this.#operator,
      json: { run: `run ${newest.run}`, reason: 'the test wants it' },
    });
    const may = newest.state === 'superseded' || newest.state === 'published';
    expect(status, `publishing what is ${newest.state}`).to.equal(may ? 200 : 409);
    if (may) this.#model.publish(newest);
  }

  async #load(): Promise<void> {
    const loader = this.#system.startLoader();
    await eventually(
      () =>
        this.#system.query(`SELECT FROM ingest.run_revision WHERE state = 'queued' AND model = $1`, [
          this.#name,
        ]),
      (queued) => queued.length === 0,
      30_000,
    );
    await loader.stop();
    this.#model.load();
  }

  /** A service that dies after the last byte and before its finish hook; what comes next sweeps at its start. */
  async #sweep({ run: runNumber, content, state }: Revision): Promise<void> {
    if (state !== 'receiving') return;
    await this.#patch({ run: runNumber, content, state, revision: 0 }, 1);
    await this.#system.query(
      `UPDATE ingest.run_revision SET state = 'receiving', queued_at = NULL
       WHERE state = 'queued' AND revision_id IN (
         SELECT revision_id FROM ingest.run_file WHERE '/v1/uploads/' || upload_id = $1)`,
      [this.#urls.get(runNumber)],
    );
    await this.#system.restartService();
    await eventually(
      () => getRun(this.#system, this.#name, `run ${runNumber}`),
      (answer) => answer.state === 'queued',
    );
  }

  async #headOffset(url: string): Promise<number | undefined> {
    const answer = await this.#system.request('HEAD', url, { headers: { 'tus-resumable': '1.0.0' } });
    if (answer.status === 404) return undefined;
    expect(answer.status).to.equal(200);
    return Number(answer.headers.get('upload-offset'));
  }

  async #compare(): Promise<void> {
    const found = await this.#system.query(
      `SELECT substr(run_key, 5)::int AS run, revision, state FROM ingest.run_revision WHERE model = $1 ORDER BY revision_id`,
      [this.#name],
    );
    const expected = this.#model.revisions.map(({ run, revision, state }) => ({ run, revision, state }));
    expect(found).to.deep.equal(expected);
    for (let runNumber = 0; runNumber < RUNS; runNumber += 1) {
      const newest = this.#model.newest(runNumber);
      if (newest === undefined) continue;
      const [file] = await listFiles(this.#system, this.#name, `run ${runNumber}`);
      if (newest.state !== 'cancelled')
        expect(file?.offset).to.equal(this.#model.offsets.get(newest.content));
    }
    const current = this.#model.published;
    if (current === undefined) return;
    const seen = await this.#system.query(
      `SELECT count(*)::int AS rows, array_agg(DISTINCT run) AS runs FROM scores.${this.#name}`,
    );
    const rows = (CONTENTS[current.content] ?? '').split('\n').length - 1;
    expect(seen).to.deep.equal([{ rows, runs: [`run ${current.run}`] }]);
  }
}
