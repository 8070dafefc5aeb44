// Makes one file of the program and what it uses, `dist/main.js`: it starts sooner than many modules do, and is what the
// executable, the npm package and the image contain.
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const APP = fileURLToPath(new URL('..', import.meta.url));
const { version } = JSON.parse(readFileSync(join(APP, 'package.json'), 'utf8'));

rmSync(join(APP, 'dist'), { recursive: true, force: true });
await build({
  // Two files, because `bin/uploader.js` runs the second before it parses the first.
  entryPoints: [join(APP, 'src/main.ts'), join(APP, 'src/bound-memory.ts')],
  outdir: join(APP, 'dist'),
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node26',
  legalComments: 'inline',
  define: { UPLOADER_VERSION: JSON.stringify(version) },
  banner: {
    // CommonJS libraries load Node's modules with require, which an ES module must create.
    js: "import { createRequire as makeRequire } from 'node:module';\nconst require = makeRequire(import.meta.url);",
  },
});
