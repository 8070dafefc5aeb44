import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { LabEnv } from './lab-env.ts';
import { ROOT } from './lab-settings.ts';
import { printLanded } from './print-landed.ts';

const END_WITH_PARENT = fileURLToPath(new URL('./end-with-parent.ts', import.meta.url));
const UPLOADER = join(ROOT, 'apps/uploader/bin/uploader.js');

export interface PushRequest {
  sourceDir: string;
  uploaderArgs: string[];
}

/** Pushes with the real uploader, then prints what the database shows. Gives the uploader's exit code. */
export async function pushAndShow(env: LabEnv, request: PushRequest): Promise<number> {
  const args = ['push', request.sourceDir, ...request.uploaderArgs];
  console.log(`\n$ npx uploader ${args.join(' ')}`);
  const uploader = spawn(process.execPath, ['--import', END_WITH_PARENT, UPLOADER, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, UPLOADER_URL: env.uploaderUrl, UPLOADER_TOKEN: env.uploaderToken },
  });
  const [code] = await once(uploader, 'close');
  await printLanded(env.databaseUrl);
  return code ?? 1;
}
