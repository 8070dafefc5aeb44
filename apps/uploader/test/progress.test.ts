import { expect } from 'chai';
import { renderBlock } from '../src/progress/live.ts';
import {
  createRate,
  formatBytes,
  formatDuration,
  newRunView,
  type PushView,
  plainProgress,
  type RunView,
} from '../src/progress/view.ts';
import { keyBuildOf, loadOf, progressOf } from './support/run-parts.ts';
import { waitUntil } from './support/wait-until.ts';

function sending(label: string): RunView {
  const run = newRunView(label, 2);
  run.stage = 'sending';
  run.totalBytes = 2000e6;
  run.receivedBytes = 500e6;
  run.active.set('part-1.jsonl', { name: 'part-1.jsonl', totalBytes: 1000e6, sentBytes: 250e6 });
  return run;
}

describe('progress', () => {
  const rates = { ofRun: () => 10e6, ofFile: () => 5e6, total: 10e6 };
  const view = (...runs: RunView[]): PushView => ({ startedAtMs: 0, runs });
  const shown = (run: RunView): string[] => renderBlock(view(run), rates, 150, 24).split('\n');

  it('on a terminal shows each run, its active files with a bar, rate and time left, and the total', () => {
    const lines = renderBlock(view(sending('churn/1'), newRunView('fraud/1', 1)), rates, 140, 24).split('\n');
    expect(lines[0]).to.match(
      /^churn\/1 +█{8}░{12} +37 % +10\.0 MB\/s {2}2 min 5 s left +sending 0 of 2 files, 750 MB of 2\.0 GB$/,
    );
    expect(lines[1]).to.match(/^ {2}part-1\.jsonl +█{5}░{15} +25 % +5\.0 MB\/s {2}2 min 30 s left$/);
    expect(lines[2]).to.match(/^total +█.* 37 % .* 0 of 2 runs done, 750 MB of 2\.0 GB$/);
  });

  it('on a terminal never grows beyond its width and height', () => {
    const many = Array.from({ length: 50 }, (_, index) => sending(`churn/${index}`));
    const lines = renderBlock(view(...many), rates, 40, 10).split('\n');
    expect(lines.length).to.be.at.most(10);
    for (const line of lines) expect(line.length).to.be.lessThan(40);
  });

  it('on a terminal of any width shows name, bar, rate and time of runs and files of any length', () => {
    const label = 'churn/scheduled__2026-11-01T00:00:00.000000+00:00__part';
    for (let columns = 40; columns <= 200; columns++) {
      for (let cells = 7; cells <= label.length; cells++) {
        const run = sending(label.slice(0, cells - 1) + label.at(-1));
        run.active.set('long', { name: `${label}.jsonl`.slice(-cells), totalBytes: 1e9, sentBytes: 1e6 });
        for (const bytesPerSecond of [999, 10e6, 99.9e9]) {
          const shown = { ofRun: () => bytesPerSecond, ofFile: () => bytesPerSecond, total: bytesPerSecond };
          for (const line of renderBlock(view(run), shown, columns, 24).split('\n')) {
            expect(line.length, line).to.be.lessThan(columns);
            expect(line).to.match(
              /^ {0,2}(\S+) +[█░]{5,20} +\d+ % +[\d.]+ (bytes|[kMG]B)\/s +(> 99 h|[\d.]+ (s|min|h))/,
            );
          }
        }
      }
    }
    // The ends of the name are what tells two runs apart.
    const [line] = renderBlock(
      view(sending('churn/scheduled__2026-11-01T00:00:00+00:00')),
      rates,
      60,
      24,
    ).split('\n');
    expect(line).to.match(/^churn\/sched\S*…\S*00\+00:00 /);
  });

  it('on a terminal shows how far the load is', () => {
    const run = sending('churn/1');
    run.stage = 'in_service';
    run.load = loadOf({ attempt: 2, phase: 'copying', bytes: 500e6, rows: 1_200_000 });
    run.progress = progressOf({ bytesPerSecond: 50e6, etaSeconds: 30, loadEtaSeconds: 75 });
    expect(shown(run)).to.deep.equal([
      `churn/1 ${'█'.repeat(5)}${'░'.repeat(15)}  25 %    50.0 MB/s  1 min 15 s left   loading (attempt 2): copying, 500 MB of 2.0 GB, 1,200,000 rows`,
    ]);
  });

  it('on a terminal shows the steps of the key, with a bar where something can be counted', () => {
    const run = sending('churn/1');
    run.stage = 'in_service';
    run.load = loadOf({ phase: 'building_key', rows: 10, keyBuild: keyBuildOf('sorting', 0, 0) });
    expect(shown(run)[0]).to.match(/^churn\/1 ░{20} +loading: building key \(sorting\), 10 rows$/);
    run.load = loadOf({ phase: 'building_key', rows: 10, keyBuild: keyBuildOf('writing', 5, 10) });
    run.progress = progressOf({ etaSeconds: 40, loadEtaSeconds: 40 });
    expect(shown(run)[0]).to.match(
      /^churn\/1 █{10}░{10} +50 % +40 s left +loading: building key \(writing the index\), 10 rows$/,
    );
    run.load = loadOf({ phase: 'building_key', rows: 10 });
    expect(shown(run)[0]).to.match(/^churn\/1 ░{20} +40 s left /);
  });

  it('elsewhere writes whole lines, now and then', async () => {
    const written: string[] = [];
    const reporter = plainProgress((text) => written.push(text), view(sending('churn/1')), 10);
    reporter.say('Something happened.');
    await waitUntil('it has written', () => written.length > 1);
    reporter.stop();
    expect(written[0]).to.equal('Something happened.\n');
    expect(written[1]).to.match(/^churn\/1: sending 0 of 2 files, 750 MB of 2\.0 GB \(37 %\), 0 bytes\/s\n$/);
  });

  it('counts a rate over the last moments only', () => {
    const rate = createRate(10_000);
    rate(0, 0);
    expect(rate(1000, 1000)).to.equal(1000);
    for (let second = 2; second <= 60; second++) rate(1000, second * 1000);
    expect(rate(1000, 61_000)).to.equal(0);
  });

  it('writes amounts as people read them', () => {
    expect([0, 999, 1000, 99_949, 4.5e9].map(formatBytes)).to.deep.equal([
      '0 bytes',
      '999 bytes',
      '1.0 kB',
      '99.9 kB',
      '4.5 GB',
    ]);
    expect([250, 12_400, 125_000, 3_725_000].map(formatDuration)).to.deep.equal([
      '0.3 s',
      '12 s',
      '2 min 5 s',
      '1 h 2 min',
    ]);
  });
});
