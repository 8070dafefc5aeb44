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
