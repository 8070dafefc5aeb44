import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'chai';
import type { RunningProgram } from './support/programs.ts';
import { type FaultProxy, type RoundRobin, startFaultProxy, startRoundRobin } from './support/proxies.ts';
import { type ScoreFile, seededRandom, testSeed, writeScoreFile } from './support/score-file.ts';
import {
  type OwnS3,
  type Service,
  startOwnS3,
  startTestSystem,
  type TestSystem,
} from './support/test-system.ts';
import { checkLeftovers } from './torture/promises.ts';

const MODELS = ['m0', 'm1', 'm2', 'm3', 'm4', 'm5'];
const OLD_MODEL = 'old';
const SERVICES = 3;
const LOADERS = 3;
const LINES = 60_000;
const KILLS = { service: 3, loader: 3, uploader: 2, bucket: 3 } as const;
type Victim = keyof typeof KILLS;
const DELETES = { on: 'POST', path: /\?delete/ } as const;
const ENDS_WITHIN_MS = 90_000;
/** Services remove the bytes of a loaded run at once: deletes are under way while everything is killed. */
const KEEP_NOTHING = { INGEST_KEEP_FILES_HOURS: '0.0001' };

/** Nothing is shared but the database and the bucket; no request knows which service the one before it went to. */
describe('three services and three loaders on hosts of their own, with one bucket', function () {
  this.timeout(180_000);
  let own: OwnS3;
  let toBucket: FaultProxy;
  let system: TestSystem;
  let front: RoundRobin;
  const services: Service[] = [];
  const loaders: RunningProgram[] = [];
  const homes: string[] = [];

  before(async function () {
    const started = await startOwnS3();
    if (started === undefined) return this.skip();
    own = started;
    toBucket = await startFaultProxy(Number(new URL(own.s3.endpoint).port));
    system = await startTestSystem({ bucket: own.s3, bucketEndpoint: toBucket.url });
    for (let i = 0; i < SERVICES + LOADERS; i += 1) {
      const home = join(system.workDir, `host-${i}`);
      await mkdir(home);
      homes.push(home);
    }
    services.push(...(await Promise.all(homes.slice(0, SERVICES).map((_, i) => startService(i)))));
    for (let i = 0; i < LOADERS; i += 1) loaders.push(startLoader(i));
    front = await startRoundRobin(services.map(({ port }) => port));
  });
  after(async () => {
    await front?.stop();
    await system?.stop();
    await toBucket?.stop();
    await own?.stop();
  });

  /** A host of its own: no other program has its home, its working directory or its temporary folder. */
  const onHost = (home = '') => ({ cwd: home, env: { HOME: home, TMPDIR: home } });

  function startService(index: number, extra: Record<string, string> = KEEP_NOTHING): Promise<Service> {
    const { cwd, env } = onHost(homes[index]);
    return system.startService({ port: services[index]?.port ?? 0, env: { ...env, ...extra }, cwd });
  }

  function startLoader(index: number): RunningProgram {
    const { cwd, env } = onHost(homes[SERVICES + index]);
    return system.startLoader({ ...env, INGEST_POLL_INTERVAL_MS: '500' }, cwd);
  }

  it('load six models whole and once while everything is killed, and leave nothing behind', async () => {
    const random = seededRandom(testSeed());
    const files = new Map<string, ScoreFile>();
    for (const model of MODELS) {
      const file = join(system.workDir, 'out', model, '2026-11', 'scores.jsonl');
      files.set(model, await writeScoreFile(file, LINES, Math.floor(random() * 2 ** 31)));
    }
    // What a service wants to remove when it starts: all its attempts fail. Those of the next one are cut at first.
    await writeScoreFile(join(system.workDir, 'old', OLD_MODEL, '2026-10', 'scores.jsonl'), 5_000, 1);
    const old = await system.runUploader(front.url, [
      'push',
      join(system.workDir, 'old'),
      '--chunk-size',
      '64KiB',
    ]);
    expect(old.code, old.stderr).to.equal(0);
    toBucket.plan([
      { ...DELETES, fault: { do: 'answer', status: 503 }, times: 5 },
      { ...DELETES, fault: { do: 'reset' }, times: 2 },
      { ...DELETES, fault: { do: 'lose_answer' } },
    ]);

    const args = ['push', join(system.workDir, 'out'), '--chunk-size', '256KiB', '--poll', '500ms'];
    const startPush = () =>
      system.startUploader(front.url, [...args, '--transfers', '6', '--bwlimit', '1MB']);
    let push = startPush();
    const deadlineMs = performance.now() + ENDS_WITHIN_MS;
    const victims = shuffled(
      (Object.keys(KILLS) as Victim[]).flatMap((victim) => Array<Victim>(KILLS[victim]).fill(victim)),
      random,
    );
    const restarts: Promise<unknown>[] = [];
    for (const victim of victims) {
      await delay(200 + random() * 600);
      const index = Math.floor(random() * SERVICES);
      if (victim === 'uploader') {
        await push.kill('SIGKILL');
        push = startPush();
      } else if (victim === 'service') {
        await services[index]?.kill('SIGKILL');
        services[index] = await startService(index);
      } else if (victim === 'loader') {
        await loaders[index]?.kill('SIGKILL');
        loaders[index] = startLoader(index);
      } else {
        await own.s3.kill();
        restarts.push(delay(random() * 1_000).then(() => own.s3.start()));
        await restarts.at(-1);
      }
    }
    for (;;) {
      const ending = await push.ended;
      if (ending.code === 0) break;
      expect(ending.code === 75 || ending.signal === 'SIGKILL', ending.stderr).to.equal(true);
      expect(performance.now(), ending.stderr).to.be.below(deadlineMs);
      push = startPush();
    }

    for (const [model, file] of files) {
      const [run] = await system.query(
        `SELECT r.state, encode(f.sha256, 'hex') AS sha256, count(p.*)::int AS publications
         FROM ingest.run_revision r JOIN ingest.run_file f USING (revision_id) LEFT JOIN ingest.publication p USING (revision_id)
         WHERE r.model = $1 GROUP BY 1, 2`,
        [model],
      );
      expect(run, model).to.deep.equal({ state: 'published', sha256: file.sha256, publications: 1 });
      const [seen] = await system.query(
        `SELECT count(*)::int AS rows, sum(round(score * 1000))::float8 AS sum FROM scores.${model}`,
      );
      expect(seen, model).to.deep.equal({ rows: file.lines, sum: await sumOf(file.path) });
    }

    // The last sweep: with the retention of every day, on objects that are old enough to be orphans.
    await Promise.all(services.map((service) => service.kill('SIGKILL')));
    expect(toBucket.remaining().length, 'kinds of deletes that have not failed').to.be.below(3);
    toBucket.plan([]);
    await system.store.age();
    services[0] = await startService(0, {});
    await checkLeftovers(system, MODELS.length + 1);
    for (const home of homes) expect(await readdir(home), 'a private folder').to.deep.equal([]);
  });
});

/** Of the scores, in thousandths: exact in any order. */
async function sumOf(file: string): Promise<number> {
  let sum = 0;
  for (const [, score] of (await readFile(file, 'utf8')).matchAll(/"score": "(.*?)"/g))
    sum += Math.round(Number(score) * 1000);
  return sum;
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, order: random() }))
    .sort((one, other) => one.order - other.order)
    .map(({ item }) => item);
}
