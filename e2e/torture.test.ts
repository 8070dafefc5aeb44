import { expect } from 'chai';
import { testSeed } from './support/score-file.ts';
import { runTorture } from './torture/main.ts';

/** The short form. `npm run torture` is the long form. */
const KILLS = 25;
const FOR_MS = 10_000;

describe('The whole system under SIGKILL', function () {
  this.timeout(240_000);

  it('keeps every promise, whoever is killed, whenever', async () => {
    const seed = testSeed();
    const report = await runTorture({
      seed,
      kills: KILLS,
      forMs: FOR_MS,
      linesPerRun: 60_000,
      log: () => {},
    });
    console.log(`      ${JSON.stringify(report)}`);
    expect(report.runs).to.be.greaterThan(0);
    expect(report.readers.reads).to.be.greaterThan(0);
    expect(report.readers.standbyReads).to.be.greaterThan(0);
    expect(report.offsetsSeen).to.be.greaterThan(0);
  });
});
