// Runs other programs for run.mjs and setup.mjs, on any Node from 18 on, without packages.
import { spawn } from 'node:child_process';
import { delimiter, join } from 'node:path';

const STILL_RUNNING_EVERY_MS = 10_000;
const KEPT_OUTPUT_CHARACTERS = 200_000;

export class StepFailed extends Error {
  constructor(message, { code = 1, signal } = {}) {
    super(message);
    this.code = code;
    this.signal = signal;
  }
}

/**
 * An environment whose PATH has the checkout's own Node 26 and programs before those of the machine. Tests start programs
 * a thousand times: with a cache of compiled code each start takes a third less processor time.
 */
export function toolEnvironment(root) {
  return {
    ...process.env,
    PATH: join(root, 'node_modules/.bin') + delimiter + process.env.PATH,
    NODE_COMPILE_CACHE: join(root, 'node_modules/.cache/node'),
    TURBO_TELEMETRY_DISABLED: '1',
  };
}

/** Runs a step of the setup. Prints a line every 10 s, and the step's output when it fails (`stream`: always). */
export async function runStep(command, args, { cwd, env, hint, stream = false }) {
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const startedMs = Date.now();
  let output = '';
  let lastOutputMs = startedMs;
  for (const source of [child.stdout, child.stderr]) {
    source.setEncoding('utf8').on('data', (text) => {
      lastOutputMs = Date.now();
      if (stream) process.stdout.write(text);
      else output = (output + text).slice(-KEPT_OUTPUT_CHARACTERS);
    });
  }
  const stillRunning = setInterval(() => {
    if (stream && Date.now() - lastOutputMs < STILL_RUNNING_EVERY_MS) return;
    console.log(`setup: still running after ${Math.round((Date.now() - startedMs) / 1000)} s`);
  }, STILL_RUNNING_EVERY_MS);
  const end = await endOf(child);
  clearInterval(stillRunning);
  if (end.code === 0) return;
  process.stdout.write(output);
  throw failure(command, args, end, hint);
}

/** Runs the task itself on the terminal, and forwards signals to it. */
export async function runAttached(command, args, { cwd, env, hint }) {
  const child = spawn(command, args, { cwd, env, stdio: 'inherit' });
  const forward = (signal) => child.kill(signal);
  // On a terminal Ctrl-C also reaches the child, and a second SIGINT would interrupt its shutdown.
  const onInterrupt = process.stdin.isTTY ? () => {} : forward;
  process.on('SIGINT', onInterrupt).on('SIGTERM', forward).on('SIGHUP', forward);
  const end = await endOf(child);
  process.off('SIGINT', onInterrupt).off('SIGTERM', forward).off('SIGHUP', forward);
  if (end.code !== 0) throw failure(command, args, end, hint);
}

function endOf(child) {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: 127, error }));
    child.once('close', (code, signal) => resolve({ code: code ?? 1, signal }));
  });
}

function failure(command, args, { code, signal, error }, hint) {
  const how = error?.message ?? (signal ? `was ended by ${signal}` : `ended with exit code ${code}`);
  return new StepFailed(`FAILED: ${[command, ...args].join(' ')}\n${how}. ${hint}`, { code, signal });
}
