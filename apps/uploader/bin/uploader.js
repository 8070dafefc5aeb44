#!/usr/bin/env node
import { readFileSync } from 'node:fs';

// Only syntax of Node 18: on a version that is too old, this file must still run and say so.
const { engines } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
const [major, minor] = engines.node.replace('>=', '').split('.').map(Number);
const [ownMajor, ownMinor] = process.versions.node.split('.').map(Number);

if (ownMajor > major || (ownMajor === major && ownMinor >= minor)) {
  // Before main and its imports are parsed: parsing already makes V8's young generation grow.
  import('../dist/bound-memory.js').then(() => import('../dist/main.js'));
} else {
  const detail = `uploader needs Node ${major}.${minor} or newer; this is Node ${process.versions.node} (${process.execPath}).`;
  console.error(detail);
  process.exitCode = 2;
  if (process.argv.includes('--json') && process.argv[2] !== 'watch') {
    console.log(JSON.stringify({ result: 'usage', exitCode: 2, runs: [], error: { code: 'usage', detail } }));
  }
}
