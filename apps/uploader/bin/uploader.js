#!/usr/bin/env node
import { readFileSync } from 'node:fs';

// Only what every Node since 18 understands: on an older one than the package needs, this file must still say so.
const { engines } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
const [major, minor] = engines.node.replace('>=', '').split('.').map(Number);
const [ownMajor, ownMinor] = process.versions.node.split('.').map(Number);

if (ownMajor > major || (ownMajor === major && ownMinor >= minor)) {
  // Before main and all that it imports is parsed: V8's young generation has grown by then, and stays.
  import('../dist/bound-memory.js').then(() => import('../dist/main.js'));
} else {
  const detail = `uploader needs Node ${major}.${minor} or newer; this is Node ${process.versions.node} (${process.execPath}).`;
  console.error(detail);
  process.exitCode = 2;
  if (process.argv.includes('--json')) {
    console.log(JSON.stringify({ result: 'usage', exitCode: 2, runs: [], error: { code: 'usage', detail } }));
  }
}
