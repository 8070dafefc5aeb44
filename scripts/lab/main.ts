// `npm run lab`: the whole system on this machine. Pushes sample runs, or a folder, through it.
import { mkdir } from 'node:fs/promises';
import { type LabEnv, leaveHome, takeHome, writeLabEnv } from './home.ts';
import { pushAndShow } from './push.ts';
import { writeSampleRuns } from './samples.ts';
import { LabFailure, type LabSettings, readLabSettings } from './settings.ts';
import { startSystem, stopParts } from './system.ts';

// exit() also ends a start that a signal has interrupted: every part ends with this process.
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

  const other = await takeHome(settings.home);
  if (other === undefined) return runLab(settings, sourceDir);
  console.log(`lab: a lab is already running in ${settings.home}; pushing to ${other.uploaderUrl}`);
  return pushAndShow(other, sourceDir, settings.uploaderArgs);
}

/**
 * Starts everything, pushes, and stays up until a signal (`--exit`: only until the push has ended). Resolves to the exit
 * code of the uploader.
 */
async function runLab(settings: LabSettings, sourceDir: string): Promise<number> {
  const interrupted = exitCodeOfSignal();
  const parts: Parameters<typeof stopParts>[0] = [];
  try {
    const first = await Promise.race([startAndPush(), interrupted]);
    if (typeof first === 'number') return first;
    const { env, broken, pushCode } = first;
    if (settings.exit) return pushCode;
    printNextSteps(settings.home, env, pushCode);
    await Promise.race([broken, interrupted]);
    return pushCode;
  } finally {
    console.log('lab: stopping');
    await stopParts(parts);
    await leaveHome(settings.home);
  }

  async function startAndPush() {
    const system = await startSystem(settings, parts);
    await writeLabEnv(settings.home, system.env);
    const push = pushAndShow(system.env, sourceDir, settings.uploaderArgs);
    const pushCode = await Promise.race([system.broken, push]);
    return { ...system, pushCode };
  }
}

/** Resolves at Ctrl-C and similar signals, to the exit code that a shell expects. The lab then stops its parts. */
function exitCodeOfSignal(): Promise<number> {
  const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
  return new Promise((resolve) => {
    for (const [signal, exitCode] of Object.entries(exitCodes)) process.on(signal, () => resolve(exitCode));
  });
}

function printNextSteps(home: string, env: LabEnv, pushCode: number): void {
  if (pushCode !== 0) console.log(`\nlab: the push ended with exit code ${pushCode}; its error is above.`);
  console.log(`
Status page    ${env.statusUrl}    # sign in with UPLOADER_TOKEN from ${home}/lab.env
For a shell    source ${home}/lab.env    # then: npx uploader push DIR, psql "$DATABASE_URL"
Push your own  npm run lab -- DIR         # from another terminal, while this lab is up
Logs           ${home}/logs

The lab is up. Ctrl-C stops it; its data stays in ${home} for the next start.`);
}
