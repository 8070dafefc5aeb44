import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { type Ending, type RunningProgram, waitFor } from './support/programs.ts';
import {
  type Fault,
  type FaultProxy,
  type PlannedFault,
  startFaultProxy,
  type Verb,
} from './support/proxies.ts';
import { seededRandom, testSeed, writeScoreFile } from './support/score-file.ts';
import { startTestSystem, type TestSystem } from './support/test-system.ts';

const CHUNK_BYTES = 512 * 1024;
/** Every fault happens to both. */
const MODES = ['off', 'zstd'] as const;
type Mode = (typeof MODES)[number];
/** Faults in mid chunk count the bytes on the wire; score lines shrink to a fifth and less. */
const SHRINKS_TO: Readonly<Record<Mode, number>> = { off: 1, zstd: 0.1 };
const LINES = 100_000;
/** Most of a push's time here is a pause. */
const AT_ONCE = 8;
const EVERY_VERB: Verb[] = ['PUT', 'HEAD', 'PATCH', 'GET'];

const PRELOADED_FAULTS = fileURLToPath(new URL('./support/preloaded-faults.ts', import.meta.url));

interface FaultCase {
  /** After "is survived:" or "ends with N:". */
  what: string;
  faults: PlannedFault[];
  args?: string[];
  env?: (proxy: FaultProxy) => Record<string, string>;
  /** Done while the uploader runs. */
  meanwhile?: (proxy: FaultProxy, push: RunningProgram) => Promise<void>;
  exitCode?: 2 | 75;
  says?: string[];
}

interface Outcome {
  ending: Ending;
  unmet: PlannedFault[];
  resentBytes: number;
}

const seed = testSeed();
const random = seededRandom(seed);
/** A part of a chunk on the wire. */
const partOfChunk = (mode: Mode, share: number) =>
  1 + Math.floor(random() * CHUNK_BYTES * share * SHRINKS_TO[mode]);
const onEvery = (verbs: Verb[], fault: Fault): PlannedFault[] => verbs.map((on) => ({ on, fault }));
const thrice = (fault: () => Fault): PlannedFault[] => [1, 2, 3].map(() => ({ on: 'PATCH', fault: fault() }));
const answers = (status: number, headers: Record<string, string> = {}, body?: string): FaultCase => ({
  what: `a gateway's ${status} in HTML on ${EVERY_VERB.join(', ')}${headers['Retry-After'] ? ', with Retry-After' : ''}`,
  faults: onEvery(EVERY_VERB, { do: 'answer', status, headers, ...(body ? { body } : {}) }),
  says: [` answered ${status}`],
});

const casesOf = (mode: Mode): FaultCase[] => [
  answers(408),
  answers(423, { 'Retry-After': '1' }),
  answers(425),
  answers(429, { 'Retry-After': '1' }),
  answers(500),
  answers(502),
  answers(503, { 'Retry-After': '1' }),
  answers(504),
  answers(507, { 'Retry-After': '1' }),
  answers(
    520,
    {},
    '<html><style>h1 { color: red }</style><h1>Web server returns an unknown error</h1></html>',
  ),
  {
    what: 'a page with status 200 on HEAD, PATCH, GET',
    faults: onEvery(['HEAD', 'PATCH', 'GET'], { do: 'answer', status: 200 }),
  },
  {
    what: 'a page with status 200 on PUT',
    faults: onEvery(['PUT'], { do: 'answer', status: 200 }),
    exitCode: 2,
    says: ['UPLOADER_URL'],
  },
  { what: 'a connection reset on every verb', faults: onEvery(EVERY_VERB, { do: 'reset' }) },
  {
    what: 'a connection reset on every verb when the service has done it',
    faults: onEvery(EVERY_VERB, { do: 'lose_answer' }),
  },
  { what: 'an answer cut in its middle on PUT, GET', faults: onEvery(['PUT', 'GET'], { do: 'cut_answer' }) },
  {
    what: 'a connection cut in mid chunk, 3 times',
    faults: thrice(() => ({ do: 'cut_body', afterBytes: partOfChunk(mode, 0.8) })),
  },
  {
    what: 'a half-open connection in mid chunk, 3 times',
    faults: thrice(() => ({ do: 'fall_silent', afterBytes: partOfChunk(mode, 0.8) })),
    args: ['--stall-timeout', '4s'],
    says: ['nothing moved for 4 s'],
  },
  {
    what: 'a line of 1 B/s in mid chunk, 2 times',
    faults: thrice(() => ({ do: 'trickle_body', afterBytes: partOfChunk(mode, 1 / 8) })).slice(1),
    args: ['--stall-timeout', '4s'],
    says: ['nothing moved for 4 s'],
  },
  {
    what: 'silence on PUT, HEAD, GET, and then 1 B/s on PUT, GET',
    faults: [
      ...onEvery(['PUT', 'HEAD', 'GET'], { do: 'fall_silent', afterBytes: 0 }),
      ...onEvery(['GET', 'PUT'], { do: 'trickle_answer' }),
    ],
    args: ['--stall-timeout', '2s'],
    says: ['nothing moved'],
  },
  {
    what: 'connections refused in mid transfer',
    faults: [{ on: 'PATCH', fault: { do: 'fall_silent', afterBytes: (CHUNK_BYTES * SHRINKS_TO[mode]) / 2 } }],
    meanwhile: async (proxy, push) => {
      await waitFor(
        'half a chunk',
        () => proxy.receivedBytes() >= (CHUNK_BYTES * SHRINKS_TO[mode]) / 2,
        30_000,
      );
      await proxy.refuse();
      await waitFor('the refusal', () => push.stderr().includes('refuses connections'), 30_000);
      await proxy.accept();
    },
  },
  {
    what: 'a name that is not found for a while',
    faults: [],
    env: ({ port }) => ({
      UPLOADER_URL: `http://ingest.test:${port}`,
      LOOKUPS_FAIL_WITH: 'ENOTFOUND,EAI_AGAIN',
      NODE_OPTIONS: `--import=${PRELOADED_FAULTS}`,
    }),
    says: ['ENOTFOUND', 'EAI_AGAIN'],
  },
  {
    what: 'a name that is never found',
    faults: [],
    env: () => ({ UPLOADER_URL: 'http://nobody-has-this-name.invalid' }),
    args: ['--max-duration', '3s'],
    exitCode: 75,
    says: ['Run the same command again'],
  },
  ...[-86_400_000, 86_400_000].map(
    (jumpMs): FaultCase => ({
      what: `a clock that jumps a day ${jumpMs < 0 ? 'back' : 'forward'}, between a 503 with a date and a cut`,
      faults: [
        {
          on: 'PATCH',
          fault: { do: 'answer', status: 503, headers: { 'Retry-After': new Date().toUTCString() } },
        },
        { on: 'PATCH', fault: { do: 'cut_body', afterBytes: 1000 } },
      ],
      args: ['--max-duration', '5m'],
      env: () => ({
        CLOCK_JUMP_MS: String(jumpMs),
        CLOCK_JUMPS_AFTER_MS: '300',
        NODE_OPTIONS: `--import=${PRELOADED_FAULTS}`,
      }),
    }),
  ),
  { what: 'a storm of 12 faults of all kinds', faults: storm(mode, 12) },
];

const CASES = MODES.flatMap((mode) => casesOf(mode).map((one) => ({ ...one, mode })));

function storm(mode: Mode, count: number): PlannedFault[] {
  const statuses = [408, 423, 429, 500, 502, 503, 504];
  const kinds: Array<() => Fault> = [
    () => ({ do: 'cut_body', afterBytes: partOfChunk(mode, 1 / 2) }),
    () => ({ do: 'reset' }),
    () => ({ do: 'lose_answer' }),
    () => ({ do: 'answer', status: statuses[Math.floor(random() * statuses.length)] ?? 500 }),
  ];
  return Array.from({ length: count }, (_, index) => {
    const fault = kinds[Math.floor(random() * kinds.length)]?.() ?? { do: 'reset' };
    return { on: fault.do === 'cut_body' || index % 2 === 0 ? 'PATCH' : 'HEAD', fault };
  });
}

describe('uploader push, over a network that fails', function () {
  this.timeout(180_000);
  let system: TestSystem;
  let outcomes: Array<Promise<Outcome>>;
  const table = ['injected | exit code | bytes sent again'];

  before(async () => {
    system = await startTestSystem();
    const service = await system.startService();
    system.startLoader();
    outcomes = inParallel(
      AT_ONCE,
      CASES.map((one, index) => () => push(one, index, service.port)),
    );
  });
  after(async () => {
    await Promise.allSettled(outcomes);
    await system.stop();
    console.log(`      ${table.join('\n      ')}`);
  });

  async function push(one: (typeof CASES)[number], index: number, servicePort: number): Promise<Outcome> {
    const file = await writeScoreFile(join(system.workDir, `${index}/a.jsonl`), LINES, seed + index);
    const proxy = await startFaultProxy(servicePort);
    try {
      proxy.plan(one.faults);
      const fixed = [
        '--model',
        `faults_${index}`,
        '--run',
        one.what,
        '--json',
        '--chunk-size',
        String(CHUNK_BYTES),
        '--compress',
        one.mode,
      ];
      const args = ['push', join(system.workDir, String(index)), ...fixed, ...(one.args ?? [])];
      const running = system.startUploader(proxy.url, args, one.env?.(proxy));
      await one.meanwhile?.(proxy, running);
      const ending = await running.ended;
      const sentBytes: number = JSON.parse(ending.stdout).runs[0]?.bytesSent ?? 0;
      const resentBytes = Math.max(0, sentBytes - file.bytes);
      table.push(`${one.what}, ${one.mode} | ${ending.code} | ${resentBytes.toLocaleString('en')}`);
      return { ending, unmet: proxy.remaining(), resentBytes };
    } finally {
      await proxy.stop();
    }
  }

  for (const [index, one] of CASES.entries()) {
    it(`${one.exitCode ? `ends with ${one.exitCode}` : 'is survived'}: ${one.what} (--compress ${one.mode})`, async () => {
      const outcome = await outcomes[index];
      if (!outcome) throw new Error('This push was not started.');
      const { ending, unmet, resentBytes } = outcome;
      expect(ending.code, ending.stderr).to.equal(one.exitCode ?? 0);
      for (const text of one.says ?? []) expect(ending.stderr + ending.stdout).to.include(text);
      expect(unmet).to.deep.equal([]);
      const counts = ending.stderr.matchAll(/after (\d+) failed tr|: (\d+) times in all/g);
      const met = [...counts].reduce((sum, [, ended, inAll]) => sum + Number(ended ?? inAll), 0);
      expect(resentBytes).to.be.at.most(met * CHUNK_BYTES);
      if (one.exitCode) return;
      const [run] = JSON.parse(ending.stdout).runs;
      expect(run).to.include({ state: 'published', rows: LINES });
      if (one.mode === 'zstd') expect(run.bytesOnWire).to.be.below(run.bytesSent / 2);
      else expect(run.bytesOnWire).to.equal(run.bytesSent);
    });
  }

  it('publishes each of these runs once', async () => {
    await Promise.allSettled(outcomes);
    const runs = await system.query(`
      SELECT r.model, r.run_key FROM ingest.publication p JOIN ingest.run_revision r USING (revision_id)
      GROUP BY r.model, r.run_key HAVING count(*) > 1`);
    expect(runs).to.deep.equal([]);
  });
});

/** Starts the tasks in order, at most `count` at a time. Each promise settles as its own task does. */
function inParallel<T>(count: number, tasks: Array<() => Promise<T>>): Array<Promise<T>> {
  const waiting: Array<() => void> = [];
  let free = count;
  const outcomes = tasks.map(async (task) => {
    if (free === 0) await new Promise<void>((resolve) => waiting.push(resolve));
    else free -= 1;
    try {
      return await task();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free += 1;
      else next();
    }
  });
  for (const outcome of outcomes) outcome.catch(() => {}); // reported by the test that awaits it
  return outcomes;
}
