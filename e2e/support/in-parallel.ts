/** Starts all tasks, at most `count` at a time, in their order. Each promise is that of its own task. */
export function inParallel<T>(count: number, tasks: Array<() => Promise<T>>): Array<Promise<T>> {
  let running: Array<Promise<unknown>> = [];
  let started: Promise<unknown> = Promise.resolve();
  return tasks.map((task) => {
    const result = started.then(async () => {
      while (running.length >= count) await Promise.race(running);
      const mine = task();
      const ended: Promise<unknown> = mine
        .catch(() => {})
        .then(() => {
          running = running.filter((other) => other !== ended);
        });
      running.push(ended);
      return { mine };
    });
    started = result;
    const outcome = result.then(({ mine }) => mine);
    outcome.catch(() => {}); // told to whoever awaits it
    return outcome;
  });
}
