import { join } from 'node:path';
import { expect } from 'chai';
import { type IngestServer, startIngestServer } from './support/ingest-server.ts';
import { keyBuildOf, loadOf } from './support/run-parts.ts';
import { makeScratch, scoreLines } from './support/scratch.ts';
import { hasTerminal, startOnTerminal, type TerminalRun } from './support/terminal.ts';
import { waitUntil } from './support/wait-until.ts';

const MIB = 2 ** 20;
const ESCAPE = String.fromCharCode(27);

describe('uploader push, on a real terminal', () => {
  let server: IngestServer;
  let scratch: ReturnType<typeof makeScratch>;
  let run: TerminalRun | undefined;

  before(function () {
    if (!hasTerminal()) this.skip();
  });
  beforeEach(async () => {
    server = await startIngestServer();
    scratch = makeScratch();
  });
  afterEach(async () => {
    run?.kill();
    await server.stop();
    scratch.remove();
  });

  const push = (columns: number, rows: number, more: string[] = []): TerminalRun => {
    run = startOnTerminal(
      ['push', join(scratch.path, 'data'), '--poll', '100ms', ...more],
      { UPLOADER_URL: server.url, UPLOADER_TOKEN: server.token, HOME: join(scratch.path, 'home') },
      columns,
      rows,
    );
    return run;
  };
  const manyFiles = (count: number, bytes: number) => {
    for (let index = 0; index < count; index++) {
      scratch.write(`data/churn/2026-11/part-${index}.jsonl`, scoreLines(bytes, index * 1e6));
    }
  };
  const shows = (what: RegExp) => () => run?.screen().some((line) => what.test(line)) === true;
  const letItFinish = async (): Promise<number | null | undefined> => {
    server.stopReadingAtBytes = Number.POSITIVE_INFINITY;
    return run?.exitCode;
  };

  it('shows of 300 files those that are on their way, each with a bar, and leaves only sentences', async () => {
    manyFiles(300, 20_000);
    server.stopReadingAtBytes = 2 * MIB;
    const { screen, everything, exitCode } = push(140, 16, ['--stall-timeout', '3s']);
    await waitUntil('it is stalled in mid transfer, with a bar for each file that is being sent', () => {
      const isSending = shows(
        /^churn\/2026-11 +[█░]{20} +\d+ % .* sending [1-9]\d* of 300 files, .* of \d\.\d MB$/,
      )();
      const bars = screen().filter((line) => /^ {2}part-\d+\.jsonl +[█░]{20} +\d+ %/.test(line));
      expect(bars.length, screen().join('\n')).to.be.at.most(4); // between two files there may be none
      return isSending && bars.length >= 1;
    });
    await letItFinish();
    expect(await exitCode).to.equal(0);
    const left = everything().join('\n');
    expect(left).to.not.include('█');
    expect(left).to.match(/churn\/2026-11: revision 1 is published/);
  });

  it('follows a terminal that is made smaller and larger, without leaving pieces behind', async () => {
    manyFiles(8, MIB);
    server.stopReadingAtBytes = MIB;
    const { screen, resize, exitCode } = push(120, 24, ['--stall-timeout', '8s']);
    await waitUntil('it sends', shows(/^ {2}part-\d/), 20_000);
    for (const [columns, rows] of [
      [44, 12],
      [150, 30],
      [60, 6],
      [90, 20],
    ] as const) {
      resize(columns, rows);
      await waitUntil(`it fits ${columns} columns`, () => {
        const lines = screen();
        const bars = lines.filter((line) => /^ {2}pa\S* +[█░]+ +\d+ %/.test(line));
        const heads = lines.filter((line) => /^churn\S* +[█░]+ +\d+ %/.test(line));
        return bars.length >= 1 && bars.length <= 4 && heads.length === 1;
      });
    }
    await letItFinish();
    expect(await exitCode).to.equal(0);
    expect(screen().join('\n')).to.not.match(/[█░]/);
  });

  it('continues with the phases of the load, in a bar of the same form', async () => {
    manyFiles(1, 100_000);
    server.settleAs = 'loading';
    server.load = loadOf({ bytes: 50_000, rows: 1200 });
    const { exitCode } = push(140, 24);
    await waitUntil('it copies', shows(/^churn\/2026-11 +█+░+ +\d+ % /), 20_000);
    await waitUntil('it counts', shows(/loading: copying, 50\.0 kB of [\d.]+ kB, 1,200 rows$/));
    const keyBuild = keyBuildOf('writing', 2500, 2500);
    server.load = loadOf({ phase: 'building_key', bytes: 100_000, rows: 2500, keyBuild });
    await waitUntil('it builds the key', shows(/^churn\/2026-11 +█{20} +100 % .*loading: building key/));
    server.settle('published');
    expect(await exitCode).to.equal(0);
  });

  it('writes no colours, and shows the cursor again when it is stopped', async () => {
    manyFiles(2, MIB);
    server.stopReadingAtBytes = MIB / 2;
    const { raw, type, exitCode } = push(80, 24);
    await waitUntil('it sends', shows(/^ {2}part-\d/), 20_000);
    type('\\x03');
    expect(await exitCode).to.equal(130);
    expect(raw()).to.not.match(new RegExp(`${ESCAPE}\\[[0-9;]*m`));
    expect(raw().lastIndexOf(`${ESCAPE}[?25h`)).to.be.greaterThan(raw().lastIndexOf(`${ESCAPE}[?25l`));
  });

  it('writes plain lines where a terminal has no width, and where it can do nothing', async () => {
    manyFiles(1, 1000);
    const { raw, exitCode } = push(0, 0);
    expect(await exitCode).to.equal(0);
    expect(raw()).to.include('is published').and.not.include(ESCAPE);
  });
});
