import { type LabEnv, writeLabEnv } from './lab-env.ts';
import type { LabSettings } from './lab-settings.ts';
import { leaveHome } from './other-lab.ts';
import { type PushRequest, pushAndShow } from './push-and-show.ts';
import { type System, startSystem } from './start-system.ts';
import { stopped } from './stop-signal.ts';
import { type Stoppable, stopInReverse } from './stoppable.ts';

/** Starts everything, pushes, shows what landed, and stays up until a signal (or not, with --exit). */
export async function runLab(
  settings: LabSettings,
  request: PushRequest,
  signal: AbortSignal,
): Promise<number> {
  const parts: Stoppable[] = [];
  const interrupted = stopped(signal);
  try {
    const first = await Promise.race([startAndPush(settings, request, parts), interrupted]);
    if (typeof first === 'number') return first;
    const { env, broken, pushCode } = first;
    if (settings.exit) return pushCode === 0 ? 0 : 1;
    sayHowToGoOn(settings.home, env, pushCode);
    await Promise.race([broken, interrupted]);
    return 0;
  } finally {
    console.log('lab: stopping');
    await stopInReverse(parts);
    await leaveHome(settings.home);
  }
}

async function startAndPush(
  settings: LabSettings,
  request: PushRequest,
  parts: Stoppable[],
): Promise<System & { pushCode: number }> {
  const system = await startSystem(settings, parts);
  await writeLabEnv(settings.home, system.env);
  const pushCode = await Promise.race([system.broken, pushAndShow(system.env, request)]);
  return { ...system, pushCode };
}

function sayHowToGoOn(home: string, env: LabEnv, pushCode: number): void {
  if (pushCode !== 0) console.log(`\nlab: the push ended with exit code ${pushCode}; see above.`);
  console.log(`
Status page    ${env.statusUrl}    # sign in with UPLOADER_TOKEN from ${home}/lab.env
For a shell    source ${home}/lab.env    # then: npx uploader push DIR, psql "$DATABASE_URL"
Push your own  npm run lab -- DIR         # from another terminal, while this one is up
Logs           ${home}/logs

The lab is up. Ctrl-C stops it; its data stays in ${home} for the next time.`);
}
