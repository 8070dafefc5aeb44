// The rules for names that a caller chooses: the same for service and uploader, so that the uploader finds a
// bad name before it hashes or sends anything.
declare const checked: unique symbol;

/** The name of a model. It matches `MODEL_NAME`; in double quotes it is a safe SQL identifier. */
export type ModelName = string & { readonly [checked]: 'ModelName' };

export const MODEL_NAME = /^[a-z][a-z0-9_]{0,47}$/;

export const MODEL_NAME_RULE =
  'a lower-case letter, then up to 47 lower-case letters, digits or underscores (for example churn_v2)';

export function isModelName(text: string): text is ModelName {
  return MODEL_NAME.test(text);
}

/** @throws {RangeError} when `text` is not a model name; the message says the rule. */
export function parseModelName(text: string): ModelName {
  if (isModelName(text)) return text;
  throw new RangeError(modelNameFault(text) ?? text);
}

/** The sentence that says why this is not a model name, or null. */
export function modelNameFault(text: string): string | null {
  if (isModelName(text)) return null;
  return `"${printable(text.slice(0, 80))}" is not a model name: it must be ${MODEL_NAME_RULE}.`;
}

const UNPRINTABLE = /\p{C}/u;

/** A run key is one segment of a URL's path, where `.` and `..` would be resolved away. */
export const RUN_KEY = /^(?!\.{1,2}$)[^\p{C}]{1,200}$/u;
export const RUN_KEY_RULE = '1 to 200 printable characters, and not "." or ".."';

/** The sentence that says why this is not a run key, or null. */
export function runKeyFault(text: string): string | null {
  if (RUN_KEY.test(text)) return null;
  const length = [...text].length;
  const found = length > 200 ? `it has ${length} characters` : `found "${printable(text)}"`;
  return `A run key must be ${RUN_KEY_RULE}; ${found}.`;
}

/** The name of a file of a run: no path, and printable. */
export const FILE_NAME = /^(?!\.{1,2}$)[^/\\\p{C}]{1,255}$/u;
export const FILE_NAME_RULE = 'a file name of 1 to 255 printable characters, without slashes';

/** The end of a sentence that begins with the name of a file on a disk, or null. */
export function fileNameFault(name: string): string | null {
  if (!UNPRINTABLE.test(name) && !name.includes('\\')) return null;
  return 'its name contains a backslash or a character that does not print; rename it';
}

/** Control, bidirectional and other invisible characters, line separators, halves of a character. */
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * Text that is safe in a terminal, a log or a page: a character that would move the cursor, change colours or
 * turn the direction of writing becomes an escape such as `\u{202e}`. For every text from a client, a file or
 * PostgreSQL.
 */
export function printable(text: string): string {
  return text.replace(UNSAFE, (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`);
}

/** The same for a text of several lines: its line feeds stay. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** The same for lines of JSON, with JSON's own escapes, so that the values do not change. */
export function printableJson(json: string): string {
  return json.replace(UNSAFE, (character) =>
    character === '\n'
      ? character // it separates lines; inside a string it is escaped already
      : utf16(character),
  );
}

function utf16(character: string): string {
  let escapes = '';
  for (let unit = 0; unit < character.length; unit += 1)
    escapes += `\\u${character.charCodeAt(unit).toString(16).padStart(4, '0')}`;
  return escapes;
}
