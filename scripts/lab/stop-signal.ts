/** Aborts at Ctrl-C and its like; the reason is the exit code that a shell expects for the signal. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
  for (const [signal, exitCode] of Object.entries(exitCodes)) {
    process.on(signal, () => controller.abort(exitCode));
  }
  return controller.signal;
}

/** Resolves with the exit code once the signal has come. */
export function stopped(signal: AbortSignal): Promise<number> {
  if (signal.aborted) return Promise.resolve(signal.reason);
  return new Promise((resolve) =>
    signal.addEventListener('abort', () => resolve(signal.reason), { once: true }),
  );
}
