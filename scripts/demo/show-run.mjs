// Reads a run, as the API answers it, from stdin, and shows what it was judged by.
import { readFileSync } from 'node:fs';

const { run, state, rows, rejects, gates, profile, previous } = JSON.parse(readFileSync(0, 'utf8'));
console.log(`${run}: ${state}${rows === null ? '' : `, ${rows} rows`}, ${rejects.total} lines refused`);
for (const { gate, expected, found, broken } of gates ?? [])
  console.log(`  ${broken ? 'BROKEN' : 'kept  '} ${gate}: expected ${expected}, found ${found}`);
if (profile !== null) {
  showProfile('this run', profile);
  if (previous?.profile) showProfile(`${previous.run}, published then`, previous.profile);
}

function showProfile(name, { rows: count, min, max, mean, deciles }) {
  console.log(`  ${name}: ${count} rows, ${min} to ${max}, mean ${mean}, deciles ${deciles.join(' ')}`);
}
