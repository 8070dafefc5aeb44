import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

const FILES = 40_000;
const RUNS = 3_000;
const MODELS = 2_000;
const MOVING_RUNS = 10_000;

/** What the service answers when nobody asks for more. */
const LARGEST_ANSWER = 256 * 1024;
/** A page of a list as long as may be asked for: 1,000 names of 255 characters among them. */
const LARGEST_PAGE = 2 * 1024 * 1024;
const PARALLEL = 15;
const HEAP_MB = 256;

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly example?: string;
  readonly schema: { readonly maximum?: number };
}

interface Document {
  readonly paths: Record<string, Record<string, { readonly parameters: readonly Parameter[] }>>;
}

/** Of every kind of thing as much as a service meets in years, or from one hostile client; texts as long as they may be. */
const DATA = `
ALTER TABLE ingest.model DISABLE TRIGGER model_has_relations; -- their tables would need 6,000 locks at once
INSERT INTO ingest.model (name) SELECT 'm' || n FROM generate_series(1, ${MODELS}) n UNION SELECT 'big';
ALTER TABLE ingest.model ENABLE TRIGGER model_has_relations;
INSERT INTO ingest.run (model, run_key) SELECT 'm' || n, '2026-11' FROM generate_series(1, ${MODELS}) n;
INSERT INTO ingest.run (model, run_key) SELECT 'big', rpad('run ' || n, 200, 'x') FROM generate_series(1, ${RUNS}) n;
INSERT INTO ingest.run (model, run_key) VALUES ('big', 'files'), ('big', 'past');

INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, file_count, total_bytes, published_at)
SELECT 'm' || n, '2026-11', 1, 'published', now(), 'tests', 1, 1000, now() FROM generate_series(1, ${MODELS}) n;
INSERT INTO ingest.publication (model, revision_id, published_by) SELECT model, revision_id, 'tests' FROM ingest.run_revision;
INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, file_count, total_bytes, error, source)
SELECT 'big', rpad('run ' || n, 200, 'x'), 1, (ARRAY['failed', 'held', 'superseded', 'cancelled'])[n % 4 + 1], now(), 'tests', 1, 1000,
  jsonb_build_object('code', 'bad_lines', 'detail', repeat('e', 100000)), jsonb_build_object('a', repeat('s', 16000))
FROM generate_series(1, ${RUNS}) n;

INSERT INTO ingest.run_revision (model, run_key, revision, as_of, declared_by, file_count, total_bytes, total_lines, source)
VALUES ('big', 'files', 1, now(), 'tests', ${FILES}, ${FILES * 1000}, ${FILES}, jsonb_build_object('a', repeat('s', 16000)));
INSERT INTO ingest.upload (upload_id, model, bytes, sha256, offset_bytes, created_by, last_progress_at, received_at)
SELECT md5('file ' || n), 'big', 1000, sha256(n::text::bytea), n % 3 * 500, 'tests',
  now() - CASE n % 3 WHEN 1 THEN interval '10 minutes' ELSE interval '0' END, CASE n % 3 WHEN 2 THEN now() END
FROM generate_series(1, ${FILES}) n;
INSERT INTO ingest.run_file (revision_id, name, bytes, sha256, lines, upload_id)
SELECT (SELECT revision_id FROM ingest.run_revision WHERE run_key = 'files'),
  rpad(lpad(n::text, 6, '0'), 255, 'x'), 1000, sha256(n::text::bytea), 1, md5('file ' || n)
FROM generate_series(1, ${FILES}) n;

INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, declared_by, file_count, total_bytes, error, rejects)
SELECT 'big', 'past', n, 'failed', now(), 'tests', 1, 1000, jsonb_build_object('code', 'bad_lines', 'detail', repeat('e', 100000)),
  '{"total": 1000, "byCode": {"invalid_json": 1000}}' FROM generate_series(1, 300) n;
CREATE TEMP TABLE past AS SELECT revision_id, revision FROM ingest.run_revision WHERE run_key = 'past';
INSERT INTO ingest.load_attempt (revision_id, attempt, worker, error, finished_at, outcome)
SELECT revision_id, n, 'worker', repeat('e', 100000), now(), 'retry' FROM past, generate_series(1, 300) n WHERE revision = 300;
INSERT INTO ingest.publication (model, revision_id, published_by, reason)
SELECT 'big', revision_id, 'tests', repeat('r', 500) FROM past;
INSERT INTO ingest.audit_event (actor, action, model, run_key, revision, detail)
SELECT 'tests', 'declare', 'big', 'past', 1, jsonb_build_object('source', repeat('s', 16000), 'reason', repeat('r', 500))
FROM generate_series(1, 1000);
INSERT INTO ingest.rejected_line (revision_id, file, line, byte_offset, code, detail, excerpt)
SELECT revision_id, rpad('f', 255, 'x'), n, n, 'invalid_json', repeat('d', 300), repeat('é', 200)
FROM past, generate_series(1, 1000) n WHERE revision = 300;
DROP TABLE past;
ANALYZE`;

describe('However much there is,', () => {
  let system: TestSystem;
  let service: Service;
  let document: Document;

  const get = (path: string, headers: Record<string, string> = {}, signal?: AbortSignal) =>
    fetch(service.url + path, {
      headers: { authorization: `Bearer ${system.token}`, ...headers },
      ...(signal === undefined ? {} : { signal }),
    });
  const json = async (path: string) => (await get(path)).json();

  before(async () => {
    system = await startTestSystem();
    service = await system.startService({
      env: { NODE_OPTIONS: `--max-old-space-size=${HEAP_MB}`, INGEST_RATE_PER_MINUTE: '1000000' },
    });
    document = (await json('/openapi.json')) as Document;
    await system.query(DATA); // now: at its start a service compares what is recorded with its folder
  });
  after(() => system.stop());

  /** Every GET of the document, of each run, as it is and with the longest pages. */
  function everyGet(): { readonly path: string; readonly mostBytes: number }[] {
    return Object.entries(document.paths).flatMap(([path, { get: operation }]) => {
      if (operation === undefined) return [];
      const limit = operation.parameters.find(({ name }) => name === 'limit')?.schema.maximum;
      return ['files', 'past'].flatMap((run) => {
        const known: Record<string, string> = { model: 'big', run };
        const address = path.replace(
          /\{(\w+)\}/g,
          (_, name: string) => known[name] ?? exampleOf(operation.parameters, name),
        );
        if (run === 'past' && !path.includes('{run}')) return [];
        const isStream = path.endsWith('/rejects');
        return [
          { path: address, mostBytes: isStream ? LARGEST_PAGE : LARGEST_ANSWER },
          ...(limit === undefined ? [] : [{ path: `${address}?limit=${limit}`, mostBytes: LARGEST_PAGE }]),
        ];
      });
    });
  }

  async function sizeOf(path: string): Promise<{ readonly status: number; readonly bytes: number }> {
    const controller = new AbortController();
    const answer = await served(path, controller.signal);
    let bytes = 0;
    for await (const chunk of answer.body ?? []) {
      bytes += chunk.length;
      if (path === '/v1/events' && bytes > 0) break; // it has no end
    }
    controller.abort();
    return { status: answer.status, bytes };
  }

  /** A service that is too busy for its database may say when to ask again. It must answer then. */
  async function served(path: string, signal: AbortSignal): Promise<Response> {
    const deadlineMs = Date.now() + 60_000;
    for (;;) {
      const answer = await get(path, {}, signal);
      const retryAfterSeconds = Number(answer.headers.get('Retry-After'));
      if (answer.status !== 503 || retryAfterSeconds === 0 || Date.now() > deadlineMs) return answer;
      await answer.body?.cancel();
      await delay(retryAfterSeconds * 1000);
    }
  }

  it(`each GET of the OpenAPI document answers in less than ${LARGEST_ANSWER / 1024} KiB`, async () => {
    const gets = everyGet();
    expect(gets).to.have.length.above(20);
    for (const { path, mostBytes } of gets) {
      const { status, bytes } = await sizeOf(path);
      expect(status, path).to.equal(200);
      if (process.env.TEST_LOG_LEVEL !== undefined) process.stderr.write(`${bytes} ${path}\n`);
      expect(bytes, path).to.be.below(mostBytes);
    }
  });

  it(`${PARALLEL} requests of each at a time leave a process with a heap of ${HEAP_MB} MB alive`, async () => {
    for (const { path } of everyGet()) {
      const answered = await Promise.all(Array.from({ length: PARALLEL }, () => sizeOf(path)));
      // A token may have 10 streams of events.
      const expected = path === '/v1/events' ? [200, 429] : [200];
      for (const { status } of answered) expect(status, path).to.be.oneOf(expected);
    }
    expect((await get('/livez')).status).to.equal(200);
  });

  it('pages lead through all of it, each thing once', async () => {
    const pagesOf = async (path: string, list: string, name: string) => {
      const seen: string[] = [];
      for (let cursor: string | null = ''; cursor !== null; ) {
        const from: string = cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`;
        const page = (await json(`${path}limit=1000${from}`)) as Record<string, never>;
        for (const one of page[list] ?? []) seen.push(one[name]);
        cursor = page.nextCursor ?? null;
      }
      expect(new Set(seen).size, path).to.equal(seen.length);
      return seen.length;
    };
    const files = '/v1/models/big/runs/files/files?state=';
    const run = (await json('/v1/models/big/runs/files')) as { files: { received: number; stalled: number } };
    const received = await pagesOf(`${files}received&`, 'files', 'name');
    expect(received).to.equal(run.files.received);
    expect(await pagesOf(`${files}receiving&`, 'files', 'name')).to.equal(FILES - received);
    expect(run.files.stalled).to.equal(Math.ceil(FILES / 3));
    expect(await pagesOf('/v1/models?', 'models', 'model')).to.equal(MODELS + 1);
    expect(await pagesOf('/v1/runs?model=big&', 'runs', 'run')).to.equal(RUNS + 2);
  });

  it(`${MOVING_RUNS} runs that one token has declared hide no other from the live events, nor take a core`, async () => {
    await system.query(`
      INSERT INTO ingest.run (model, run_key) SELECT 'big', 'moving ' || n FROM generate_series(1, ${MOVING_RUNS}) n;
      INSERT INTO ingest.run_revision (model, run_key, revision, as_of, declared_by, file_count, total_bytes)
      SELECT 'big', 'moving ' || n, 1, now(), 'one', 1, 1000 FROM generate_series(1, ${MOVING_RUNS}) n;
      INSERT INTO ingest.upload (upload_id, model, bytes, created_by)
      SELECT md5('moving ' || n), 'big', 1000, 'one' FROM generate_series(1, ${MOVING_RUNS}) n;
      INSERT INTO ingest.run_file (revision_id, name, bytes, upload_id)
      SELECT revision_id, 'a.jsonl', 1000, md5(run_key) FROM ingest.run_revision WHERE run_key LIKE 'moving %';
      ANALYZE`);
    const controller = new AbortController();
    const heard = new Set<string>();
    const listening = listen(controller.signal, ({ model, run, bytes }) => {
      heard.add(`${model} ${run} ${bytes.received}`);
    });
    const until = async (event: string) => {
      const deadlineMs = Date.now() + 60_000;
      while (!heard.has(event)) {
        if (Date.now() > deadlineMs) throw new Error(`no event "${event}" among ${heard.size}`);
        await delay(50);
      }
    };
    await until(`big moving ${MOVING_RUNS} 0`);
    // From the end of one look to the end of the next: what a look takes, with the pause that goes with it.
    const before = { cpuSeconds: await cpuSeconds(service.pid), ms: Date.now() };
    const last = `moving ${MOVING_RUNS}`;
    await system.query(
      `UPDATE ingest.upload SET offset_bytes = 500, last_progress_at = now() WHERE upload_id = md5('${last}')`,
    );
    await until(`big ${last} 500`);
    const seconds = (Date.now() - before.ms) / 1000;
    const share = ((await cpuSeconds(service.pid)) - before.cpuSeconds) / seconds;
    expect(share, 'share of a core').to.be.below(0.35);
    controller.abort();
    await listening;
    expect((await get('/livez')).status).to.equal(200);
  });

  async function listen(
    signal: AbortSignal,
    onRun: (run: { model: string; run: string; bytes: { received: number } }) => void,
  ): Promise<void> {
    try {
      const answer = await get('/v1/events', {}, signal);
      let text = '';
      for await (const chunk of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) {
        text += chunk;
        const blocks = text.split('\n\n');
        text = blocks.pop() ?? '';
        for (const block of blocks) {
          const data = /^event: run\ndata: (.*)$/m.exec(block)?.[1];
          if (data !== undefined) onRun(JSON.parse(data));
        }
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
});

function exampleOf(parameters: readonly Parameter[], name: string): string {
  return parameters.find((parameter) => parameter.name === name)?.example ?? '';
}

/** User and system time of a process (proc(5), fields 14 and 15, in hundredths of a second). */
async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
