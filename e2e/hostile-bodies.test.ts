import { request as httpRequest } from 'node:http';
import { expect } from 'chai';
import { runProgram } from './support/programs.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

const MIB = 1024 * 1024;
const BODY_BYTES = 8 * MIB;
const IN_PARALLEL = 8;
const ANSWER_WITHIN_MS = 2_000;
const LARGEST_ANSWER_BYTES = 256 * 1024;
const LONGEST_LOOP_STOP_MS = 250;
const SHA256 = 'ec4184e49619cd41bb6f822f1edc7d58e76101fcf3b3369ee574f77dd8ac240e';

const fileEntry = (name: string) => `{"name":"${name}","bytes":31,"sha256":"${SHA256}","lines":1}`;
/** `piece` after `piece` up to the size of a body, between a beginning and an end. */
const many = (piece: string, before = '', after = '') =>
  Buffer.from(`${before}${piece.repeat(Math.floor((BODY_BYTES - before.length) / piece.length))}${after}`);
/** As `many`, each piece with its number. */
function numbered(pieceOf: (index: number) => string, before: string, after: string): Buffer {
  const pieces: string[] = [];
  for (let bytes = 0; bytes < BODY_BYTES; bytes += pieces.at(-1)?.length ?? 0)
    pieces.push(pieceOf(pieces.length));
  return Buffer.from(`${before}${pieces.join(',')}${after}`);
}

const SHAPES: Readonly<Record<string, () => Buffer>> = {
  'deep arrays': () => many('['),
  'deep objects': () => many('{"a":'),
  'deep in files': () => many('[', '{"files":['),
  'deep in source': () => many('{"a":', `{"files":[${fileEntry('a')}],"source":`),
  'empty arrays for files': () => many('[],', '{"files":[', '[]]}'),
  'empty objects for files': () => many('{},', '{"files":[', '{}]}'),
  'arrays of arrays': () => many('[[],[[]]],', '{"files":[', '[]]}'),
  'numbers for files': () => many('1,', '{"files":[', '1]}'),
  'nulls beside files': () => many('null,', '{"source":{"a":[', 'null]}}'),
  'a long string': () => many('x', '{"files":"', '"}'),
  'a long name': () => many('x', '{"files":[{"name":"', '"}]}'),
  'a string of escapes': () => many('\\u0000', '{"files":[{"name":"', '"}]}'),
  'many keys': () => numbered((i) => `"k${i}":1`, '{', '}'),
  'many keys in a file': () => numbered((i) => `"k${i}":1`, '{"files":[{', '}]}'),
  'many keys in source': () => numbered((i) => `"k${i}":1`, `{"files":[${fileEntry('a')}],"source":{`, '}}'),
  'one key again and again': () => many('"files":[],', '{', '"files":[]}'),
  prototypes: () => many('"__proto__":{"constructor":{}},', '{', '"__proto__":null}'),
  'a number of many digits': () => many('9', '{"files":', '}'),
  'numbers beyond every type': () => many('1e999999999,', '{"files":[', '1e9]}'),
  'white space': () => many(' ', '{"files":[', ']}'),
  commas: () => many(',', '{"files":[', ']}'),
  'bytes that are no text': () => Buffer.alloc(BODY_BYTES, 0xff),
  'files that are not valid': () => numbered((i) => fileEntry(`../${i}`), '{"files":[', ']}'),
  'one file again and again': () => many(`${fileEntry('a')},`, '{"files":[', `${fileEntry('a')}]}`),
  'files that never end': () => numbered((i) => fileEntry(`f${i}`), '{"files":[', ''),
  'more files than there may be': () =>
    Buffer.from(`{"files":[${Array.from({ length: 100_001 }, (_, i) => fileEntry(`f${i}`)).join(',')}]}`),
};

const ROUTES = [
  ['PUT', '/v1/models/demo/runs/hostile'],
  ['POST', '/v1/models/demo/runs/hostile/retry'],
  ['DELETE', '/v1/models/demo/runs/hostile'],
  ['PUT', '/v1/models/demo'],
  ['PUT', '/v1/models/demo/current'],
  ['POST', '/session'],
] as const;

interface Answer {
  readonly status: number;
  readonly ms: number;
  readonly text: string;
}

describe('A service with a heap of 256 MB', function () {
  this.timeout(180_000);
  let system: TestSystem;
  let service: Service;
  let reader: string;
  const tokens = new Map<string, string>();

  before(async () => {
    system = await startTestSystem();
    for (const [name, ...options] of [
      ['read', '--scope', 'read'],
      ['push', '--scope', 'push'],
      ['operate', '--scope', 'operate'],
      ['admin', '--scope', 'admin'],
      ['push of another model', '--scope', 'push', '--model', 'other'],
    ] as const)
      tokens.set(name, await createToken(name.replaceAll(' ', '-'), options));
    reader = tokens.get('read') ?? '';
    tokens.set('none', '');
    tokens.set('unknown', 'si_unknown');
    service = await system.startService({
      env: { NODE_OPTIONS: '--max-old-space-size=256', INGEST_FAILED_LOGINS_PER_MINUTE: '100000' },
    });
  });
  after(() => system.stop());

  async function createToken(name: string, options: readonly string[]): Promise<string> {
    const env = { DATABASE_URL: system.databaseUrl };
    const { stdout } = await runProgram('ingest-api', ['token', 'create', name, ...options], env);
    return stdout.trimEnd().split('\n').at(-1) ?? '';
  }

  /** Since it was asked for the last time: the longest time in which the process did nothing else. */
  async function longestLoopStopMs(): Promise<number> {
    const answer = await fetch(`${service.url}/metrics`, { headers: { authorization: `Bearer ${reader}` } });
    const [, seconds] = /^nodejs_eventloop_lag_max_seconds (\S+)/m.exec(await answer.text()) ?? [];
    return Number(seconds) * 1000;
  }

  /** Sends the body until there is an answer, and no further. */
  function send(method: string, path: string, token: string, body: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const startedMs = performance.now();
      const headers = {
        'content-type': 'application/json',
        'content-length': body.length,
        'sec-fetch-site': 'same-origin',
        ...(token === '' ? {} : { authorization: `Bearer ${token}` }),
      };
      const request = httpRequest(service.url + path, { method, headers, agent: false });
      request.on('response', (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => {
          text += chunk.slice(0, 1_000 - text.length);
        });
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, ms: performance.now() - startedMs, text });
          request.destroy();
        });
      });
      request.on('error', reject);
      request.end(body);
    });
  }

  it('answers every shape of body, of every token, at every route: soon, and without a stop for others', async () => {
    await longestLoopStopMs();
    const rows: string[] = [];
    const faults: string[] = [];
    let longestStopMs = 0;
    for (const [shape, make] of Object.entries(SHAPES)) {
      const body = make();
      const statuses = new Map<number, number>();
      let slowestMs = 0;
      const work = ROUTES.flatMap(([method, path]) =>
        [...tokens].map((token) => [method, path, token] as const),
      );
      await Promise.all(
        Array.from({ length: IN_PARALLEL }, async () => {
          for (let next = work.pop(); next !== undefined; next = work.pop()) {
            const [method, path, [who, token]] = next;
            const { status, ms } = await send(method, path, token, body);
            statuses.set(status, (statuses.get(status) ?? 0) + 1);
            slowestMs = Math.max(slowestMs, ms);
            if (status < 400 || status === 500 || ms > ANSWER_WITHIN_MS)
              faults.push(
                `${shape}, ${method} ${path} with the token ${who}: ${status} in ${Math.round(ms)} ms`,
              );
          }
        }),
      );
      const stopMs = await longestLoopStopMs();
      longestStopMs = Math.max(longestStopMs, stopMs);
      if (stopMs > LONGEST_LOOP_STOP_MS)
        faults.push(`${shape}: the event loop stopped for ${Math.round(stopMs)} ms`);
      const counts = [...statuses].sort().map(([status, count]) => `${count} × ${status}`);
      rows.push(
        `${shape.padEnd(30)} slowest ${String(Math.round(slowestMs)).padStart(5)} ms, loop ${String(Math.round(stopMs)).padStart(4)} ms: ${counts.join(', ')}`,
      );
    }
    console.log(rows.map((row) => `      ${row}`).join('\n'));
    expect(faults.join('\n')).to.equal('');
    expect((await fetch(`${service.url}/livez`)).status).to.equal(200);
  });

  it('takes an honest manifest of 100,000 files; of eight at once some get 429, and the service stays up', async () => {
    const manifest = (run: number) =>
      Buffer.from(
        JSON.stringify({
          files: Array.from({ length: 100_000 }, (_, i) => ({
            name: `part-${run}-${i}.jsonl`,
            bytes: 31,
            sha256: (run * 1_000_000 + i).toString(16).padStart(64, '0'),
            lines: 1,
          })),
        }),
      );
    const push = tokens.get('push') ?? '';
    await longestLoopStopMs();
    const one = await send('PUT', '/v1/models/demo/runs/honest', push, manifest(0));
    const stopMs = await longestLoopStopMs();
    console.log(`      one: ${one.status} in ${Math.round(one.ms)} ms, loop ${Math.round(stopMs)} ms`);
    expect(one.status, one.text).to.equal(201);
    expect(one.text.length, 'the answer does not list them').to.be.below(LARGEST_ANSWER_BYTES);
    expect(stopMs).to.be.lessThan(LONGEST_LOOP_STOP_MS);
    const bodies = Array.from({ length: 8 }, (_, run) => manifest(run + 1));
    const all = await Promise.all(
      bodies.map((body, run) => send('PUT', `/v1/models/demo/runs/honest-${run}`, push, body)),
    );
    console.log(
      `      eight: ${all.map(({ status, ms }) => `${status} in ${Math.round(ms)} ms`).join(', ')}`,
    );
    for (const { status } of all) expect(status).to.be.oneOf([201, 429, 503, 507]);
    expect((await fetch(`${service.url}/livez`)).status).to.equal(200);
  });
});
