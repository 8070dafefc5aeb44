// `npm run lab`: the whole system on this machine, with sample runs pushed through it.
import { mkdir } from 'node:fs/promises';
import { LabFailure } from './lab-failure.ts';
import { readLabSettings } from './lab-settings.ts';
import { otherLab } from './other-lab.ts';
import { pushAndShow } from './push-and-show.ts';
import { runLab } from './run-lab.ts';
import { writeSampleRuns } from './sample-runs.ts';
import { stopSignal } from './stop-signal.ts';

// exit() also ends what a signal has cut off in the middle of starting: every part ends with this process.
main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    console.error(error instanceof LabFailure ? `\nlab: ${error.message}` : error);
    process.exit(1);
  },
);

async function main(): Promise<number> {
  const settings = readLabSettings(process.argv.slice(2), process.env);
  await mkdir(settings.home, { recursive: true, mode: 0o700 });
  const sourceDir = settings.sourceDir ?? (await writeSampleRuns(settings.home));
  const request = { sourceDir, uploaderArgs: settings.uploaderArgs };

  const other = await otherLab(settings.home);
  if (other === undefined) return runLab(settings, request, stopSignal());
  console.log(`lab: one is up already in ${settings.home}; pushing to ${other.env.uploaderUrl}`);
  return (await pushAndShow(other.env, request)) === 0 ? 0 : 1;
}
