import { spawn } from 'node:child_process';

const SIGN_OF_LIFE_MS = 10_000;
const KEPT_OUTPUT_CHARACTERS = 200_000;

export class StepFailed extends Error {
  constructor(message, { code = 1, signal } = {}) {
    super(message);
    this.code = code;
    this.signal = signal;
  }
}

/** Runs a step of the set-up. It shows a line every 10 s, and its output when it fails (or always: `stream`). */
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
  const signOfLife = setInterval(() => {
    if (stream && Date.now() - lastOutputMs < SIGN_OF_LIFE_MS) return;
    console.log(`setup: still at it after ${Math.round((Date.now() - startedMs) / 1000)} s`);
  }, SIGN_OF_LIFE_MS);
  const end = await ending(child);
  clearInterval(signOfLife);
  if (end.code === 0) return;
  process.stdout.write(output);
  throw failure(command, args, end, hint);
}

/** Runs the task itself on the terminal as it is, and hands signals on. */
export async function runAttached(command, args, { cwd, env, hint }) {
  const child = spawn(command, args, { cwd, env, stdio: 'inherit' });
  const handOn = (signal) => child.kill(signal);
  // On a terminal Ctrl-C reaches the child by itself, and a second SIGINT would cut its orderly end short.
  const onInterrupt = process.stdin.isTTY ? () => {} : handOn;
  process.on('SIGINT', onInterrupt).on('SIGTERM', handOn).on('SIGHUP', handOn);
  const end = await ending(child);
  process.off('SIGINT', onInterrupt).off('SIGTERM', handOn).off('SIGHUP', handOn);
  if (end.code !== 0) throw failure(command, args, end, hint);
}

function ending(child) {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: 127, error }));
    child.once('close', (code, signal) => resolve({ code: code ?? 1, signal }));
  });
}

function failure(command, args, { code, signal, error }, hint) {
  const how = error?.message ?? (signal ? `was ended by ${signal}` : `ended with exit code ${code}`);
  return new StepFailed(`FAILED: ${[command, ...args].join(' ')}\n${how}. ${hint}`, { code, signal });
}
