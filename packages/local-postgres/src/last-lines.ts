/** Keeps the end of a log, so that an error can quote what the server said before it died. */
export function lastLines(limit: number): { add(chunk: string): void; text(): string } {
  let kept: string[] = [];
  return {
    add(chunk) {
      kept = [...kept, ...chunk.split(/\r?\n/).filter((line) => line.trim() !== '')].slice(-limit);
    },
    text: () => (kept.length === 0 ? '(nothing)' : kept.join('\n')),
  };
}
