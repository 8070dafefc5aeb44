import fc from 'fast-check';
import { Life, step } from './run-life/steps.ts';
import { startSystem, type TestSystem } from './support/system.ts';

const LIVES = 12;
const MOST_STEPS = 18;
const AT_MOST_MS = 12_000;

describe('the life of a run', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  it('is what a small model says, whatever is asked of the service, in whatever order', async () => {
    const operator = await system.createToken({ name: 'operator', scopes: ['push', 'read', 'operate'] });
    const seed = process.env.TEST_SEED ? Number(process.env.TEST_SEED) : Math.floor(Math.random() * 2 ** 31);
    console.log(`      seed ${seed} (again: TEST_SEED=${seed})`);
    let lives = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 6, maxLength: MOST_STEPS }), async (steps) => {
        lives += 1;
        const life = new Life(system, operator, `life_${lives}`);
        for (const next of steps) await life.take(next);
      }),
      { seed, numRuns: LIVES, interruptAfterTimeLimit: AT_MOST_MS, endOnFailure: false },
    );
    console.log(`      ${lives} lives`);
  });
});
