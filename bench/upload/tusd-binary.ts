import { execFile } from 'node:child_process';
import { access, mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

export const TUSD_VERSION = 'v2.9.1';

const BUILD_WITHIN_MS = 10 * 60_000;

/**
 * tusd, built once by `go install` into the user's cache.
 *
 * @returns null, having said why, where it cannot be had: the benchmark goes on without it.
 */
export async function tusdBinary(): Promise<string | null> {
  const cache = process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache');
  const dir = path.join(cache, 'score-ingest-bench', `tusd-${TUSD_VERSION}`);
  const binary = path.join(dir, 'tusd');
  if (await exists(binary)) return binary;
  console.log(`Building tusd ${TUSD_VERSION} with go install, once.`);
  await mkdir(dir, { recursive: true });
  try {
    await promisify(execFile)('go', ['install', `github.com/tus/tusd/v2/cmd/tusd@${TUSD_VERSION}`], {
      env: { ...process.env, GOBIN: dir },
      timeout: BUILD_WITHIN_MS,
    });
    return binary;
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'Go is not here' : String(error);
    console.log(`tusd is skipped: it could not be built (${reason}).`);
    return null;
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
