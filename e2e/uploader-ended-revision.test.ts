import { join } from 'node:path';
import { expect } from 'chai';
import type { Run, RunHistory } from 'wire';
import { TRANSITIONS, type TransitionName } from '../apps/ingest-api/src/runs/transitions.ts';
import { type RunningProgram, waitFor } from './support/programs.ts';
import { type FaultProxy, startFaultProxy } from './support/proxies.ts';
import { writeScoreFile } from './support/score-file.ts';
import { type Service, startTestSystem, type TestSystem } from './support/test-system.ts';

const LINES = 60_000;

interface Case {
  what: string;
  /** Of the table of transitions; undefined: no transition. */
  transition?: TransitionName;
  /** Done in the middle of the transfer of revision 1 of `run` of the model `ended`. */
  meanwhile: (run: string, proxy: FaultProxy) => Promise<unknown>;
  exitCode: 0 | 65;
  revisions: number;
  says?: RegExp;
}

/** Whatever ends a revision while it is sent: a push repeats what the service has dropped, and never what a person has decided. */
describe('uploader push, when its revision is not received any more', function () {
  this.timeout(180_000);
  let system: TestSystem;
  let service: Service;

  before(async () => {
    system = await startTestSystem();
    service = await system.startService();
    system.startLoader();
  });
  after(() => system?.stop());

  const request = async <T = unknown>(path: string, method = 'GET'): Promise<T> => {
    const headers = { Authorization: `Bearer ${system.token}`, 'Tus-Resumable': '1.0.0' };
    const answer = await fetch(service.url + path, { method, headers });
    expect(answer.ok, `${method} ${path} answered ${answer.status}`).to.equal(true);
    return (method === 'DELETE' ? undefined : await answer.json()) as T;
  };
  const pathOf = (run: string) => `/v1/models/ended/runs/${run}`;
  const folderOf = (run: string) => join(system.workDir, run);
  const named = (run: string) => ['--model', 'ended', '--run', run, '--json'];
  /** From another host, which knows nothing of the first. */
  const pushElsewhere = async (run: string, folder: string) => {
    const env = { HOME: join(system.workDir, `home-${run}`) };
    const { code, stderr } = await system.runUploader(service.url, ['push', folder, ...named(run)], env);
    expect(code, stderr).to.equal(0);
  };

  const cases: Case[] = [
    {
      what: 'the run is withdrawn',
      transition: 'withdraw',
      meanwhile: (run) => request(`${pathOf(run)}?reason=the+wrong+month`, 'DELETE'),
      exitCode: 65,
      revisions: 1,
      says: /is cancelled: It was withdrawn by e2e at \S+Z \(the wrong month\)\. .*run the same command again/,
    },
    {
      what: 'its upload is deleted',
      transition: 'withdraw',
      meanwhile: async (run) => {
        const { missing } = await request<Run>(pathOf(run));
        await request(missing.files[0]?.uploadUrl ?? '', 'DELETE');
      },
      exitCode: 65,
      revisions: 1,
      says: /It was withdrawn by e2e/,
    },
    {
      what: 'other content is pushed',
      transition: 'replace',
      meanwhile: async (run) => {
        await writeScoreFile(join(folderOf(`other-${run}`), 'a.jsonl'), 100, 99);
        await pushElsewhere(run, folderOf(`other-${run}`));
      },
      exitCode: 65,
      revisions: 2,
      says: /revision 1 was replaced: revision 2 has been pushed by e2e/,
    },
    {
      what: 'another host sends the rest',
      transition: 'queue',
      meanwhile: (run) => pushElsewhere(run, folderOf(run)),
      exitCode: 0,
      revisions: 1,
    },
    {
      what: 'it received no bytes for too long',
      transition: 'expire',
      meanwhile: async (run, proxy) => {
        await proxy.refuse(); // or what is on its way would count as progress
        await waitFor('the end of the transfer', async () => {
          const rows = await system.query<{ writer: string | null }>(
            'SELECT writer FROM ingest.upload WHERE received_at IS NULL AND writer IS NOT NULL',
          );
          return rows.length === 0;
        });
        await system.query(
          `UPDATE ingest.run_revision SET declared_at = now() - interval '8 days' WHERE run_key = $1`,
          [run],
        );
        await system.query(`UPDATE ingest.upload SET last_progress_at = now() - interval '8 days'
          WHERE received_at IS NULL`);
        // The limit is 7 days; a sweep runs when a service starts.
        const sweeping = await system.startService();
        const state = () => request<Run>(pathOf(run)).then((it) => it.state);
        await waitFor('the cancellation', async () => (await state()) === 'cancelled');
        await sweeping.kill('SIGTERM');
        await proxy.accept();
      },
      exitCode: 0,
      revisions: 2,
    },
    {
      what: 'the database is restored from a time before it',
      meanwhile: async (run) => {
        const of = `revision_id IN (SELECT revision_id FROM ingest.run_revision WHERE run_key = '${run}')`;
        await system.query(`WITH gone AS (DELETE FROM ingest.run_file WHERE ${of} RETURNING upload_id)
          UPDATE ingest.upload SET removed_at = now() WHERE upload_id IN (SELECT upload_id FROM gone)`);
        await system.query(`DELETE FROM ingest.run_revision WHERE run_key = '${run}'`);
        await system.query(`DELETE FROM ingest.run WHERE run_key = '${run}'`);
      },
      exitCode: 0,
      revisions: 1,
    },
  ];

  for (const [index, { what, meanwhile, exitCode, revisions, says }] of cases.entries()) {
    it(`ends with ${exitCode} at revision ${revisions}: ${what}`, async () => {
      const run = `run-${index}`;
      await writeScoreFile(join(folderOf(run), 'a.jsonl'), LINES, index);
      const proxy = await startFaultProxy(service.port);
      try {
        const pushing = startSlowPush(run, proxy);
        const patches = () => proxy.requests.filter((one) => one.startsWith('PATCH')).length;
        await waitFor('an acknowledged chunk', () => patches() > 1);
        process.kill(pushing.pid, 'SIGSTOP');
        await meanwhile(run, proxy);
        process.kill(pushing.pid, 'SIGCONT');
        const { code, stdout, stderr } = await pushing.ended;
        expect(code, stderr).to.equal(exitCode);
        if (says) expect(stderr).to.match(says);
        const history = await request<RunHistory>(`${pathOf(run)}/history`);
        expect(history.revisions).to.have.length(revisions);
        const [pushed] = JSON.parse(stdout).runs;
        if (exitCode === 0) expect(pushed).to.include({ state: 'published', rows: LINES });
        const { state, shown } = await request<Run>(pathOf(run));
        if (revisions === 1 && exitCode === 65) expect(state).to.equal('cancelled');
        else expect(shown).to.include({ run, revision: revisions });
      } finally {
        await proxy.stop();
      }
    });
  }

  /** Each chunk takes most of a second. */
  const startSlowPush = (run: string, { url }: FaultProxy): RunningProgram => {
    const slow = ['--compress', 'off', '--chunk-size', '64KiB', '--bwlimit', '100KB', '--poll', '100ms'];
    return system.startUploader(url, ['push', folderOf(run), ...named(run), ...slow]);
  };

  it('each transition from receiving is one of these', () => {
    const leaving = Object.entries(TRANSITIONS)
      .filter(([, { from, to }]) => from.some((state) => state === 'receiving') && to !== 'receiving')
      .map(([name]) => name);
    expect(new Set(cases.flatMap(({ transition }) => transition ?? []))).to.deep.equal(new Set(leaving));
  });
});
