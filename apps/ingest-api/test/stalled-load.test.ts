import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rename, rm } from 'node:fs/promises';
import { expect } from 'chai';
import { holdBackend } from './support/hold-backend.ts';
import {
  eventually,
  getRun,
  pushRun,
  type RunAnswer,
  scoreLines,
  startSystem,
  storedFile,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const STALL_MS = 2_000;

describe('a load that does not move', () => {
  let system: TestSystem;
  beforeEach(async () => {
    system = await startSystem();
  });
  afterEach(() => system.stop());

  const file = (rows: number) => [{ name: 'a.jsonl', content: scoreLines(rows) }];

  function until(isDone: (answer: RunAnswer) => boolean): Promise<RunAnswer> {
    return eventually(() => getRun(system, 'churn', 'r'), isDone, 30_000);
  }

  async function stalledWith(...texts: readonly string[]): Promise<void> {
    const run = await until(({ load }) => load?.outcome === 'retry');
    const error = run.load?.lastError ?? '';
    expect(
      texts.some((text) => error.includes(text)),
      error,
    ).to.equal(true);
  }

  it('because PostgreSQL takes no byte is ended, reported on the run, and begun again', async () => {
    await pushRun(system, 'churn', 'r', file(400_000));
    system.startLoader({ stallTimeoutMs: STALL_MS });
    const letGo = await holdBackend(system, 'pg_stat_progress_copy');
    try {
      // A stopped backend may hold a lock that every statement needs: then no other connection is answered either.
      await stalledWith(
        'The COPY stalled: nothing moved for',
        'PostgreSQL did not answer on a second connection',
      );
    } finally {
      letGo();
    }
    expect(await untilFinal(system, 'churn', 'r')).to.include({ state: 'published', rows: 400_000 });
  });

  it('because the disk gives no byte is ended, reported on the run, and begun again', async () => {
    const [declared] = (await pushRun(system, 'churn', 'r', file(100))).missing.files;
    const stored = storedFile(system, declared?.uploadUrl);
    await rename(stored, `${stored}.away`);
    // Opening a pipe that nobody writes to waits, as opening a file on a hung disk does.
    await once(spawn('mkfifo', [stored]), 'exit');
    system.startLoader({ stallTimeoutMs: STALL_MS });
    await stalledWith('PostgreSQL waits for rows, and the loader for the disk');
    const writer = spawn('sh', ['-c', `: > '${stored}'`]); // lets the open end
    await once(writer, 'exit');
    await rm(stored);
    await rename(`${stored}.away`, stored);
    expect(await untilFinal(system, 'churn', 'r')).to.include({ state: 'published', rows: 100 });
  });

  it('because somebody locks what it needs is ended, reported on the run, and begun again', async () => {
    const first = system.startLoader();
    await pushRun(system, 'churn', 'before', file(10));
    await untilFinal(system, 'churn', 'before');
    await first.stop();
    await pushRun(system, 'churn', 'r', file(100));
    const blocker = system.query(
      `BEGIN; SELECT FROM ingest.model WHERE name = 'churn' FOR UPDATE; SELECT pg_sleep(6); COMMIT`,
    );
    system.startLoader({ stallTimeoutMs: STALL_MS });
    await stalledWith('Attaching the partition stalled: nothing moved for');
    await blocker;
    expect(await untilFinal(system, 'churn', 'r')).to.include({ state: 'published', rows: 100 });
  });
});
