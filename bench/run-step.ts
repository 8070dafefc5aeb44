import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Step } from './forms.ts';
import type { PartResult } from './part-result.ts';

/** Runs a command of the benchmark as a process of its own, so that no part inherits the heap of another. */
export async function runStep({ script, args }: Step, svgPath: string): Promise<PartResult> {
  const dir = await mkdtemp(path.join(tmpdir(), 'bench-step-'));
  try {
    const jsonPath = path.join(dir, 'result.json');
    const given = args.map((arg) => (arg === 'SVG' ? svgPath : arg));
    console.log(`\nnode bench/${script} ${given.join(' ')}`);
    const command = [path.join(import.meta.dirname, script), ...given, '--json', jsonPath];
    const child = spawn(process.execPath, command, { stdio: 'inherit' });
    const [code, signal] = await once(child, 'exit');
    if (code !== 0) throw new Error(`bench/${script} ended with ${signal ?? code}; the reason is above.`);
    return JSON.parse(await readFile(jsonPath, 'utf8')) as PartResult;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
