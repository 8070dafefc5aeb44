import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { type IngestServer, startIngestServer } from './support/ingest-server.ts';
import { type Started, startUploader } from './support/run-uploader.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';
import { waitUntil } from './support/wait-until.ts';

describe('uploader watch', () => {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;
  let watching: Started | undefined;

  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
  });
  afterEach(async () => {
    watching?.process.kill('SIGKILL');
    await server.stop();
    scratch.remove();
  });

  const at = (path: string) => join(scratch.path, path);
  const completeRun = (folder: string, bytes = 100) => {
    scratch.write(`${folder}/a.jsonl`, scoreLines(bytes));
    scratch.write(`${folder}/_SUCCESS`, '');
  };
  const start = async (dir: string) => {
    const one = startUploader(['watch', at(dir), '--poll', '100ms', '--compress', 'off'], {
      UPLOADER_URL: server.url,
      UPLOADER_TOKEN: server.token,
      HOME: at('home'),
    });
    watching = one;
    const seen = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const)
      one.process[name]?.on('data', (text: string) => {
        seen[name] += text;
      });
    await waitUntil('it watches', () => seen.stderr.includes('Watching '));
    return { ...one, seen };
  };

  const remake = (path: string) => mkdirSync(at(path), { recursive: true });
  const LOSSES: ReadonlyArray<[string, () => void]> = [
    ['is removed', () => rmSync(at('up/data'), { recursive: true })],
    [
      'is removed and made again',
      () => {
        rmSync(at('up/data'), { recursive: true });
        remake('up/data');
      },
    ],
    ['is renamed', () => renameSync(at('up/data'), at('up/old'))],
    [
      'is renamed and made again',
      () => {
        renameSync(at('up/data'), at('up/old'));
        remake('up/data');
      },
    ],
    [
      'becomes a file',
      () => {
        rmSync(at('up/data'), { recursive: true });
        writeFileSync(at('up/data'), '');
      },
    ],
    [
      'is below a folder that is renamed and made again',
      () => {
        renameSync(at('up'), at('old'));
        remake('up/data');
      },
    ],
    [
      'is a link that is pointed elsewhere',
      () => {
        remake('other');
        symlinkSync(at('other'), at('next'));
        renameSync(at('next'), at('link'));
      },
    ],
    [
      'is a link to a folder that is removed and made again',
      () => {
        rmSync(at('up/data'), { recursive: true });
        remake('up/data');
      },
    ],
  ];
  for (const [what, lose] of LOSSES)
    it(`ends with 66 when the folder ${what}`, async () => {
      remake('up/data');
      symlinkSync(at('up/data'), at('link'));
      const { finished } = await start(what.includes('link') ? 'link' : 'up/data');
      lose();
      const { exitCode, stderr } = await finished;
      expect(exitCode, stderr).to.equal(66);
      expect(stderr).to.match(/^uploader: .*(data|link) is no longer watched: it .* Start watch again/m);
    });

  it('ends a push that is sending with it, whatever the new folder holds', async () => {
    completeRun('up/data/churn/1', 2 ** 21);
    server.stopReadingAtBytes = 2 ** 20;
    const { finished } = await start('up/data');
    await waitUntil('it sends', () => server.receivedBytes() >= 2 ** 20);
    renameSync(at('up/data'), at('up/old'));
    completeRun('up/data/churn/1');
    const { exitCode, stdout } = await finished;
    expect(exitCode).to.equal(66);
    expect(stdout).to.equal('');
    server.stopReadingAtBytes = Number.POSITIVE_INFINITY;
    const again = await start('up/data');
    await waitUntil('the new folder is pushed', () => again.seen.stdout.includes('revision 2 is published'));
  });

  it('watches on when folders below are removed and made again', async () => {
    remake('data');
    const { seen, process } = await start('data');
    for (let round = 1; round <= 3; round++) {
      completeRun(`data/churn/${round}`);
      await waitUntil('it is published', () => seen.stdout.includes(`churn/${round}: revision 1`));
      rmSync(at('data/churn'), { recursive: true });
    }
    expect(process.exitCode).to.equal(null);
  });
});
