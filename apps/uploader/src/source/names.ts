const MODEL_NAME = /^[a-z][a-z0-9_]{0,47}$/;
/** As the service judges it, so that it is told before hours of hashing. */
const UNPRINTABLE = /\p{C}/u;

/** The text with every character that does not print as an escape, for a terminal or a log. */
export function printable(text: string): string {
  return text.replace(/\p{C}/gu, (character) => {
    const code = (character.codePointAt(0) ?? 0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, '0')}`;
  });
}

/** The sentence that says what is wrong with a model's name, or null. It becomes an SQL name as it stands. */
export function modelNameFault(model: string): string | null {
  if (MODEL_NAME.test(model)) return null;
  return `"${printable(model)}" cannot be a model's name: use a lower-case letter, then up to 47 lower-case letters, digits or underscores.`;
}

export function runKeyFault(run: string): string | null {
  // The key is one segment of a URL's path, where these two would be resolved away.
  if (run === '.' || run === '..') return `"${run}" cannot be a run key: name the run.`;
  if (run.length === 0) return 'A run key cannot be empty: name the run.';
  if ([...run].length > 200) return `A run key has at most 200 characters; this one has ${[...run].length}.`;
  if (UNPRINTABLE.test(run)) return `The run key "${printable(run)}" holds characters that do not print.`;
  return null;
}

/** The end of a sentence that begins with the file's name, or null. */
export function fileNameFault(name: string): string | null {
  if (!UNPRINTABLE.test(name) && !name.includes('\\')) return null;
  return 'its name holds a backslash, or characters that do not print; rename it';
}
