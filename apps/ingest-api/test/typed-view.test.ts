import { expect } from 'chai';
import pg from 'pg';
import { pushRun, runPath, startSystem, type TestSystem, untilFinal } from './support/system.ts';

const QUOTED = 'a "b"\'; DROP';

describe('attributes in a contract', () => {
  let system: TestSystem;
  let operator: string;
  before(async () => {
    system = await startSystem();
    operator = await system.createToken({ name: 'operator', scopes: ['operate'] });
    system.startLoader();
  });
  after(() => system.stop());

  async function setContract(model: string, contract: Record<string, unknown>) {
    const answer = await system.request('PUT', `/v1/models/${model}`, { json: contract, token: operator });
    return { status: answer.status, body: (await answer.json()) as { detail?: string; contract?: unknown } };
  }

  async function declare(model: string, ...attributes: Record<string, unknown>[]): Promise<void> {
    const { status, body } = await setContract(model, { attributes });
    expect(status, body.detail).to.equal(200);
    expect(body.contract).to.deep.equal({ attributes });
  }

  async function push(model: string, run: string, ...lines: string[]) {
    await pushRun(system, model, run, [{ name: 'a.jsonl', content: lines.map((it) => `${it}\n`).join('') }]);
    return untilFinal(system, model, run);
  }

  const columnsOf = (model: string) =>
    system.query(
      `SELECT column_name AS name, data_type AS type FROM information_schema.columns
       WHERE table_schema = 'scores_typed' AND table_name = '${model}' ORDER BY ordinal_position OFFSET 6`,
    );

  it('are columns of a view that readers may read, whatever their names are', async () => {
    await declare(
      'typed',
      { name: 'grade', type: 'string', enum: ['A', 'B'] },
      { name: 'share', type: 'number', min: 0 },
      { name: 'decile', type: 'integer', required: true, min: 1, max: 10 },
      { name: 'is_new', type: 'boolean' },
      { name: QUOTED, type: 'string' },
      { name: 'Grade', type: 'string' },
      { name: '%1$s', type: 'integer' },
    );
    expect(await system.query('SELECT * FROM scores_typed.typed')).to.deep.equal([]);
    const run = await push(
      'typed',
      '2026-11',
      `{"pk":"1","score":1,"grade":"A","share":0.5,"decile":10,"is_new":true,${JSON.stringify(QUOTED)}:"x","Grade":"z","%1$s":5}`,
      '{"pk":"2","score":2,"decile":1.0,"grade":null,"other":[1]}',
    );
    expect(run.state, JSON.stringify(run.error)).to.equal('published');
    expect((await columnsOf('typed')).map(({ type }) => type)).to.deep.equal([
      ...['text', 'double precision', 'bigint', 'boolean', 'text', 'text', 'bigint'],
    ]);
    const rows = await system.query('SELECT * FROM scores_typed.typed ORDER BY pk');
    const names = Object.keys(rows[0] ?? {});
    expect(names.slice(0, 6)).to.deep.equal(['pk', 'score', 'attributes', 'run', 'as_of', 'published_at']);
    // node-postgres returns bigint as text.
    expect(rows.map((row) => Object.values(row).slice(6))).to.deep.equal([
      ['A', 0.5, '10', true, 'x', 'z', '5'],
      [null, null, '1', null, null, null, null],
    ]);

    await system.query('CREATE ROLE typed_reader LOGIN IN ROLE score_reader');
    try {
      const reader = new pg.Client({ connectionString: system.databaseUrl, options: '-c role=typed_reader' });
      await reader.connect();
      try {
        expect((await reader.query('SELECT decile FROM scores_typed.typed')).rowCount).to.equal(2);
      } finally {
        await reader.end();
      }
    } finally {
      await system.query('DROP ROLE typed_reader');
    }
  });

  it('reject the lines that break them, like any other bad line', async () => {
    await declare('strict', { name: 'decile', type: 'integer', required: true, min: 1, max: 10 });
    const good = '{"pk":"1","score":1,"decile":1}';
    const bad = await push('strict', 'a', good, '{"pk":"2","score":1,"decile":11}', '{"pk":"3","score":1}');
    expect([bad.state, bad.error?.code, bad.error?.line]).to.deep.equal(['failed', 'bad_lines', 2]);
    expect(bad.rejects.byCode).to.deep.equal({ invalid_attribute: 1, missing_attribute: 1 });
    const listed = await (await system.request('GET', `${runPath('strict', 'a')}/rejects`)).text();
    expect(JSON.parse(listed.split('\n')[0] ?? '')).to.deep.include({
      ...{ file: 'a.jsonl', line: 2, byte_offset: good.length + 1 + 29, code: 'invalid_attribute' },
      excerpt: '{"pk":"2","score":1,"decile":11}',
    });

    // A rejected line is not a place of a duplicate key.
    await setContract('strict', {
      maxRejectedLines: 1,
      attributes: [{ name: 'decile', type: 'integer', required: true }],
    });
    const twice = await push('strict', 'b', '{"pk":"1","score":1}', good, good);
    expect(twice.error?.code).to.equal('duplicate_keys');
    expect(twice.rejects.byCode).to.deep.equal({ missing_attribute: 1, duplicate_key: 2 });
  });

  it('apply to the next load only: what is published shows NULL where it does not have the new type', async () => {
    await declare('later', { name: 'v', type: 'string' });
    const values = [
      '"x"',
      '1.5',
      '7',
      '-0.0',
      '1e400',
      '1e-400',
      '1e131071',
      'true',
      'null',
      '[1]',
      '{"a":1}',
      '9223372036854775808',
    ];
    const lines = values.map((value, index) => `{"pk":"${10 + index}","score":1,"v":${value}}`);
    expect((await push('later', 'a', ...lines)).state).to.equal('failed');
    await setContract('later', {});
    expect((await push('later', 'b', ...lines)).state).to.equal('published');
    const shown: Record<string, unknown[]> = {
      string: ['x', ...Array(11).fill(null)],
      number: [null, 1.5, 7, 0, null, null, null, null, null, null, null, 2 ** 63],
      integer: [null, null, '7', '0', ...Array(8).fill(null)],
      boolean: [...Array(7).fill(null), true, ...Array(4).fill(null)],
    };
    for (const [type, expected] of Object.entries(shown)) {
      await declare('later', { name: 'v', type });
      const rows = await system.query('SELECT v FROM scores_typed.later ORDER BY pk');
      expect(
        rows.map(({ v }) => v),
        type,
      ).to.deep.equal(expected);
    }
  });

  it('change the view with the contract, keep grants, and are refused while objects depend on a column', async () => {
    const [a, b] = [
      { name: 'a', type: 'integer' },
      { name: 'b', type: 'string' },
    ];
    await declare('changing', a);
    await system.query('CREATE ROLE changing_app');
    try {
      await system.query('GRANT SELECT ON scores_typed.changing TO changing_app');
      await system.query('CREATE VIEW public.dependent AS SELECT a FROM scores_typed.changing');
      await declare('changing', a, b);
      expect((await columnsOf('changing')).map(({ name }) => name)).to.deep.equal(['a', 'b']);
      for (const attributes of [[b], [{ name: 'a', type: 'string' }, b], undefined]) {
        const { status, body } = await setContract(
          'changing',
          attributes === undefined ? {} : { attributes },
        );
        expect(status).to.equal(409);
        expect(body.detail).to.contain(
          'view public.dependent depends on view scores_typed.changing. Nothing was changed.',
        );
      }
      expect((await columnsOf('changing')).map(({ name }) => name)).to.deep.equal(['a', 'b']);
      await system.query('DROP VIEW public.dependent');
      await declare('changing', b, { ...a, type: 'boolean' });
      expect(await columnsOf('changing')).to.deep.equal([
        { name: 'b', type: 'text' },
        { name: 'a', type: 'boolean' },
      ]);
      expect(
        await system.query(
          `SELECT has_table_privilege('changing_app', 'scores_typed.changing', 'SELECT') AS app,
                  has_table_privilege('score_reader', 'scores_typed.changing', 'SELECT') AS readers,
                  has_table_privilege('changing_app', 'scores_typed.changing', 'INSERT') AS write`,
        ),
      ).to.deep.equal([{ app: true, readers: true, write: false }]);
      expect((await setContract('changing', { minRows: 1 })).status).to.equal(200);
      expect(await system.query(`SELECT to_regclass('scores_typed.changing') AS view`)).to.deep.equal([
        { view: null },
      ]);
    } finally {
      await system.query(
        'DROP VIEW IF EXISTS public.dependent; DROP OWNED BY changing_app; DROP ROLE changing_app',
      );
    }
  });

  it('leave a view alone when only their rules change, and wait 1 s at most for statements that read it', async () => {
    await declare('busy', { name: 'a', type: 'integer' });
    const reader = new pg.Client({ connectionString: system.databaseUrl });
    await reader.connect();
    try {
      await reader.query('BEGIN');
      await reader.query('SELECT a FROM scores_typed.busy');
      await declare('busy', { name: 'a', type: 'integer', required: true, max: 7 });
      const { status, body } = await setContract('busy', { attributes: [{ name: 'b', type: 'integer' }] });
      expect(status).to.equal(503);
      expect(body.detail).to.contain(
        'Statements that read the view scores_typed.busy have not ended within 1 s',
      );
      await reader.query('COMMIT');
      await declare('busy', { name: 'b', type: 'integer' });
    } finally {
      await reader.end();
    }
  });
});
