/**
 * Makes one call of `work` at a time: callers that ask while one is under way share the next, so that each call began after all
 * its callers had asked. When it rejects, it rejects for all of them.
 */
export function inTurns<Result>(work: () => Promise<Result>): () => Promise<Result> {
  let next: Promise<Result> | undefined;
  let last: Promise<unknown> = Promise.resolve();
  return () => {
    next ??= last.then(() => {
      next = undefined;
      const result = work();
      last = result.catch(() => {}); // the callers get the error
      return result;
    });
    return next;
  };
}
