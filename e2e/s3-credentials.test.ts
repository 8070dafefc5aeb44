import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import type { RunningS3 } from 'local-s3';
import { declareUpload } from './support/one-upload.ts';
import { type RunningProgram, waitFor, waitForLog } from './support/programs.ts';
import { type FaultProxy, startFaultProxy } from './support/proxies.ts';
import { type ScoreFile, writeScoreFile } from './support/score-file.ts';
import {
  type OwnS3,
  type Service,
  startOwnS3,
  startTestSystem,
  type TestSystem,
} from './support/test-system.ts';

const LIFECYCLE = `<LifecycleConfiguration><Rule><ID>tidy</ID><Status>Enabled</Status><Filter/>
  <Expiration><Days>2</Days></Expiration></Rule></LifecycleConfiguration>`;

describe('credentials of a bucket that expire while an upload is sent', () => {
  let own: OwnS3;
  let proxy: FaultProxy;
  let system: TestSystem;
  let service: Service;
  let loader: RunningProgram;
  let credentialsFile: string;
  const issued: RunningS3[] = [];

  before(async function () {
    const started = await startOwnS3();
    if (started === undefined) return this.skip();
    own = started;
    issued.push(own.s3);
    proxy = await startFaultProxy(Number(new URL(own.s3.endpoint).port));
    proxy.plan([
      {
        on: 'GET',
        path: /[?&]lifecycle/,
        fault: { do: 'answer', status: 200, headers: { 'content-type': 'application/xml' }, body: LIFECYCLE },
      },
    ]);
    system = await startTestSystem({ bucket: own.s3, bucketEndpoint: proxy.url });
    credentialsFile = join(system.workDir, 'credentials');
    await replaceCredentials(own.s3);
    const env = {
      AWS_SHARED_CREDENTIALS_FILE: credentialsFile,
      AWS_ACCESS_KEY_ID: '',
      AWS_SECRET_ACCESS_KEY: '',
    };
    service = await system.startService({ env });
    loader = system.startLoader(env);
    await waitForLog(loader, 'loader started');
  });
  after(async () => {
    await system?.stop();
    await proxy?.stop();
    await own?.stop();
  });

  /** As a rotation does: the file is never half written. */
  async function replaceCredentials({ accessKeyId, secretAccessKey }: RunningS3): Promise<void> {
    const text = `[default]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`;
    await writeFile(`${credentialsFile}.new`, text);
    await rename(`${credentialsFile}.new`, credentialsFile);
  }

  const offset = async () => {
    const [upload] = await system.query<{ bytes: number }>(
      `SELECT u.offset_bytes::int AS bytes FROM ingest.upload u WHERE u.model = 'late'`,
    );
    return upload?.bytes ?? 0;
  };

  it('end the push with 75, and nothing is lost; with new ones in the file, the same command ends with 0', async () => {
    const file = await writeScoreFile(join(system.workDir, 'out/late/2026-11/scores.jsonl'), 100_000, 7);
    const push = (...flags: string[]) =>
      system.startUploader(service.url, ['push', join(system.workDir, 'out'), ...flags]);
    const first = push('--bwlimit', '500KB', '--chunk-size', '128KiB', '--max-duration', '8s');
    await waitFor('the first bytes', async () => (await offset()) > 0);
    const renewed = await own.renewCredentials();
    issued.push(renewed);
    const ended = await first.ended;
    expect(ended.code, ended.stderr).to.equal(75);
    const acknowledged = await offset();
    expect(acknowledged).to.be.within(1, file.bytes - 1);

    const refused = await push('--max-duration', '2s').ended;
    expect(refused.code, refused.stderr).to.equal(75);
    expect(await offset(), 'no acknowledged byte is lost').to.equal(acknowledged);
    const unready = await waitFor('the service to be unready', async () => {
      const answer = await fetch(`${service.url}/readyz`);
      return answer.status === 503 && answer.text();
    });

    const upload = await declareUpload(
      service.url,
      system.token,
      'one',
      Buffer.from('{"pk":"1","score":1}\n'),
    );
    const answer = await upload.patch(0);
    expect(answer).to.include({ status: 503, code: 'storage_fault', retryAfter: '10' });
    expect(JSON.parse(answer.text)).to.include({ retryable: true });
    expect(await upload.offset()).to.equal(0);

    await replaceCredentials(renewed);
    const last = await push('--max-duration', '60s').ended;
    expect(last.code, last.stderr + loader.stdout() + loader.stderr()).to.equal(0);
    expect((await upload.patch(0)).status).to.equal(204);
    await expectLoaded(file);
    for (const text of [answer.text, unready]) expectNoSecret(text);
    for (const { stderr, stdout } of [ended, refused, last]) expectNoSecret(stderr + stdout);
    for (const { stderr, stdout } of [service, loader]) expectNoSecret(stderr() + stdout());
  });

  it('are in no log, and the log of the start warns of a lifecycle rule that deletes too early', () => {
    expect(service.stdout()).to.contain('The lifecycle rule \\"tidy\\"').and.to.contain('after 2 days');
  });

  async function expectLoaded({ lines, sha256 }: ScoreFile): Promise<void> {
    const loaded = await system.query(
      `SELECT r.state, r.row_count::int AS rows, encode(f.sha256, 'hex') AS sha256,
              (SELECT count(*)::int FROM scores.late) AS seen
       FROM ingest.run_revision r JOIN ingest.run_file f USING (revision_id) WHERE r.model = 'late'`,
    );
    expect(loaded).to.deep.equal([{ state: 'published', rows: lines, sha256, seen: lines }]);
  }

  function expectNoSecret(text: string): void {
    for (const { accessKeyId, secretAccessKey } of issued)
      for (const secret of [accessKeyId, secretAccessKey, 'Signature=', 'AWS4'])
        expect(text).not.to.contain(secret);
  }
});
