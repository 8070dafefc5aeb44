/**
 * For answers that read much of the database: however many ask at once, one is being made, and one more for all who came
 * meanwhile. So nobody is answered with what was true before they asked.
 *
 * @param make is given the key; callers with the same key share.
 */
export function sharedAnswer<T>(make: (key: string) => Promise<T>): (key: string) => Promise<T> {
  const running = new Map<string, Promise<T>>();
  const waiting = new Map<string, Promise<T>>();

  const begin = (key: string): Promise<T> => {
    waiting.delete(key);
    const answer = make(key).finally(() => running.delete(key));
    running.set(key, answer);
    return answer;
  };

  return (key) => {
    const before = running.get(key);
    if (before === undefined) return begin(key);
    const known = waiting.get(key);
    if (known !== undefined) return known;
    const next = before.then(
      () => begin(key),
      () => begin(key), // whoever asked for that one hears why it failed
    );
    waiting.set(key, next);
    return next;
  };
}
