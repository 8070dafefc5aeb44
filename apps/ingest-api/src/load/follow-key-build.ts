import type { KeyBuild } from 'db-schema';
import type { IndexProgress } from './backend-activity.ts';

/** What is known of the build after one more look at it; undefined while no key is built. */
export function followKeyBuild(
  before: KeyBuild | undefined,
  index: IndexProgress | undefined,
  seconds: number,
): KeyBuild | undefined {
  if (index === undefined) return undefined;
  const stepBeganAt =
    before === undefined || before.step !== index.step ? seconds : before.seconds - before.stepSeconds;
  return { ...index, stepSeconds: seconds - stepBeganAt, seconds };
}
