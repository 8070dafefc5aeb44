import { connect } from 'node:net';
import { join } from 'node:path';
import { expect } from 'chai';
import { clientPortsOf, type VanishedPackets, vanishedPackets } from './support/machine-faults.ts';
import { declareUpload } from './support/one-upload.ts';
import { waitFor } from './support/programs.ts';
import { testSeed, writeScoreFile } from './support/score-file.ts';
import { startTestSystem, type TestSystem } from './support/test-system.ts';

/** Enough for a load that can be caught while it copies. */
const LINES = 1_500_000;
/** What the load's transaction asks of TCP: 15 s of silence, three probes 5 s apart; and time on a busy machine. */
const NOTICED_WITHIN_MS = 50_000;

/** 7 s after its last beat, and the pauses of whoever asks. */
const TAKEN_OVER_WITHIN_MS = 20_000;
const SOME_LINES = '{ "pk": "1", "score": "1" }\n'.repeat(100);

interface Attempt {
  attempt: number;
  outcome: string | null;
}

/** No FIN, no RST: a host that lost its power or its network just says nothing more. */
describe('A host that is dead', function () {
  this.timeout(240_000);
  let system: TestSystem;
  let packets: VanishedPackets;

  before(async function () {
    const made = await vanishedPackets();
    if (typeof made === 'string') {
      console.log(`      skipped: ${made}`);
      this.skip();
    }
    packets = made;
    system = await startTestSystem();
  });
  after(async () => {
    await packets?.remove();
    await system?.stop();
  });

  it('gives its upload up to another one at once, and its load when the keepalives end; back again, it does no harm', async () => {
    const service = await system.startService();
    await writeScoreFile(join(system.workDir, 'run/scores.jsonl'), LINES, testSeed());
    const args = ['push', join(system.workDir, 'run'), '--model', 'churn', '--run', 'run', '--no-wait'];

    const lost = system.startUploader(service.url, [...args, '--bwlimit', '4MiB', '--chunk-size', '1MiB']);
    await waitFor('bytes to arrive', async () => (await system.query(ARRIVED)).length > 0, 40_000);
    await packets.cut(service.port, await clientPortsOf(service.port));
    const other = await system.runUploader(service.url, args, {
      XDG_STATE_HOME: join(system.workDir, 'other'),
    });
    expect(other.code, other.stderr).to.equal(0);
    await lost.kill('SIGKILL');

    const dead = system.startLoader();
    await waitFor(
      'the load to copy',
      async () => (await attempts(`phase = 'copying' AND rows_done > 0`)).length > 0,
      60_000,
    );
    const ports = (await sessionsFrom(null)).map(({ client_port }) => client_port);
    await packets.cut(Number(new URL(system.databaseUrl).port), ports);
    const cutMs = performance.now();
    const living = system.startLoader();
    await waitFor(
      'another loader to begin',
      async () => (await attempts('attempt = 2')).length > 0,
      NOTICED_WITHIN_MS,
    );
    await waitFor(
      'every session of the dead one to end',
      async () => (await sessionsFrom(ports)).length === 0,
      20_000,
    );
    const noticedSeconds = (performance.now() - cutMs) / 1000;
    await waitFor(
      'the run to be published',
      async () => (await attempts(`outcome = 'published'`)).length > 0,
      60_000,
    );

    await packets.restore();
    await waitFor(
      'the dead loader to give its load up',
      () => dead.stdout().includes('load broke off'),
      60_000,
    );
    console.log(`      noticed after ${noticedSeconds.toFixed(1)} s`);
    expect((await attempts('true')).map(({ outcome }) => outcome)).to.deep.equal(['lost', 'published']);
    expect(await system.query('SELECT FROM ingest.publication')).to.have.length(1);
    expect(await system.query('SELECT count(*)::int AS rows FROM scores.churn')).to.deep.equal([
      { rows: LINES },
    ]);
    await living.kill('SIGTERM');
    await dead.kill('SIGTERM');
  });

  it('that was writing an upload leaves it to another service when its beats end, though that one asks it all the time', async () => {
    const dead = await system.startService();
    const upload = await declareUpload(dead.url, system.token, 'asked', Buffer.from(SOME_LINES));
    const stalled = connect(dead.port, '127.0.0.1').on('error', () => {});
    stalled.write(
      `PATCH /v1/uploads/${upload.id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${system.token}\r\nTus-Resumable: 1.0.0\r\n` +
        `Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: ${upload.content.length}\r\n\r\n{`,
    );
    const writing = () =>
      system.query('SELECT FROM ingest.upload WHERE upload_id = $1 AND writer IS NOT NULL', [upload.id]);
    await waitFor('the upload to be written', async () => (await writing()).length > 0);
    const sessions = await system.query<{ client_port: number }>(
      `SELECT client_port FROM pg_stat_activity
       WHERE application_name LIKE 'ingest-api serve%' AND datname = current_database()`,
    );
    await packets.cut(
      Number(new URL(system.databaseUrl).port),
      sessions.map(({ client_port }) => client_port),
    );
    const living = await system.startService();
    const there = await declareUpload(living.url, system.token, 'asked', upload.content);
    await waitFor(
      'it to be taken over',
      async () => (await there.patch(0)).status === 204,
      TAKEN_OVER_WITHIN_MS,
    );
    await packets.restore();
    stalled.destroy();
    await dead.kill('SIGKILL');
    await living.kill('SIGTERM');
    // What the dead one said when it closed its sessions was lost: the keepalives would end them, in 30 s.
    await system.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE application_name LIKE 'ingest-api%' AND datname = current_database()`,
    );
  });

  /** Of loaders: from these ports, or all. */
  const sessionsFrom = (ports: readonly number[] | null) =>
    system.query<{ client_port: number }>(
      `SELECT client_port FROM pg_stat_activity WHERE application_name LIKE 'ingest-api load%'
       AND datname = current_database() AND ($1::int[] IS NULL OR client_port = ANY ($1))`,
      [ports],
    );

  const attempts = (condition: string) =>
    system.query<Attempt>(
      `SELECT attempt, outcome FROM ingest.load_attempt WHERE ${condition} ORDER BY attempt`,
    );
});

const ARRIVED = `SELECT FROM ingest.upload WHERE offset_bytes > 0`;
