// Packs what `build.ts` has made in two forms: one executable, which contains Node, and one npm package.
// `npm run build:uploader` from the root.
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const APP = fileURLToPath(new URL('..', import.meta.url));
const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const OUT = join(APP, 'build');
const EXECUTABLE = join(OUT, 'uploader');
const PACKAGE = join(OUT, 'package');

const { version, engines } = JSON.parse(readFileSync(join(APP, 'package.json'), 'utf8'));

rmSync(OUT, { recursive: true, force: true });
mkdirSync(join(PACKAGE, 'bin'), { recursive: true });
cpSync(join(APP, 'dist'), join(PACKAGE, 'dist'), { recursive: true });
buildExecutable();
packPackage();
for (const file of [EXECUTABLE, join(OUT, `uploader-${version}.tgz`)]) {
  console.log(`${file}  ${(statSync(file).size / 1e6).toFixed(1)} MB`);
}

function buildExecutable(): void {
  const config = join(OUT, 'sea.json');
  writeFileSync(
    config,
    JSON.stringify({
      main: join(APP, 'dist/main.js'),
      mainFormat: 'module',
      output: EXECUTABLE,
      disableExperimentalSEAWarning: true,
      useCodeCache: false,
    }),
  );
  execFileSync(process.execPath, [`--build-sea=${config}`], { stdio: ['ignore', 'ignore', 'inherit'] });
  rmSync(config);
}

function packPackage(): void {
  const manifest = {
    name: 'uploader',
    version,
    license: 'MIT',
    description: 'Pushes JSON Lines files of model scores to the ingest service',
    type: 'module',
    bin: { uploader: 'bin/uploader.js' },
    engines,
  };
  writeFileSync(join(PACKAGE, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  // The same launcher as in the checkout: on a Node that is too old it says which one it needs.
  copyFileSync(join(APP, 'bin/uploader.js'), join(PACKAGE, 'bin/uploader.js'));
  chmodSync(join(PACKAGE, 'bin/uploader.js'), 0o755);
  copyFileSync(join(APP, 'README.md'), join(PACKAGE, 'README.md'));
  copyFileSync(join(ROOT, 'LICENSE'), join(PACKAGE, 'LICENSE'));
  execFileSync('npm', ['pack', '--silent', '--pack-destination', OUT], { cwd: PACKAGE, stdio: 'ignore' });
}
