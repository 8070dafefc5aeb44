import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const STAMP = 'node_modules/.setup-stamp.json';

/** A reason to install, as the end of a sentence; undefined when what is installed is what the files ask for. */
export function whyInstall(root) {
  if (!existsSync(join(root, 'node_modules/.modules.yaml'))) return 'node_modules is missing';
  if (!existsSync(join(root, 'node_modules/.bin/node'))) return 'node_modules holds no Node 26';
  const stamp = readStamp(root);
  if (stamp === undefined) return 'it is not known which versions node_modules holds';
  const changed = Object.entries(digests(root)).find(([path, digest]) => stamp[path] !== digest);
  return changed && `${changed[0]} has changed`;
}

export function rememberInstall(root) {
  writeFileSync(join(root, STAMP), JSON.stringify(digests(root), null, 2));
}

function readStamp(root) {
  try {
    return JSON.parse(readFileSync(join(root, STAMP), 'utf8'));
  } catch {
    return undefined;
  }
}

/** Of every file that decides what an install does. Contents, not times: a checkout sets all times anew. */
function digests(root) {
  const members = ['apps', 'packages'].flatMap((folder) =>
    readdirSync(join(root, folder)).map((name) => `${folder}/${name}/package.json`),
  );
  const paths = ['pnpm-lock.yaml', 'pnpm-workspace.yaml', 'package.json', 'bench/package.json', ...members];
  return Object.fromEntries(
    paths
      .filter((path) => existsSync(join(root, path)))
      .map((path) => [
        path,
        createHash('sha256')
          .update(readFileSync(join(root, path)))
          .digest('hex'),
      ]),
  );
}
