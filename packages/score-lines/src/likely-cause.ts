// What probably produced a file or a line that is refused, and what to do about it. Nothing here decides what is
// accepted, and nothing here runs before a line is refused.

/** A format that the first bytes of a file give away. */
export interface OtherFormat {
  /** Continues "The file …". */
  readonly is: string;
  readonly remedy: string;
}

const PANDAS = "df.to_json(path, orient='records', lines=True)";
const IN_PANDAS = `in pandas ${PANDAS}`;
const DECOMPRESS = 'decompress it, or compress it with gzip or zstd';
const gzipOrZstd = (ending: string): string =>
  `name it *.jsonl.${ending}; if that is its name, it is compressed twice: decompress it once`;

const jsonLinesOf = (reader: string): string => `write JSON Lines: pandas.${reader}(file), then ${PANDAS}`;
const BY_PANDAS = `write JSON Lines, ${IN_PANDAS}`;

/** Their magic numbers as latin1, at the file's first byte if `at` is not given. */
const FORMATS: ReadonlyArray<OtherFormat & { readonly magic: string; readonly at?: number }> = [
  { magic: '\x1f\x8b', is: 'is compressed with gzip', remedy: gzipOrZstd('gz') },
  { magic: '\x28\xb5\x2f\xfd', is: 'is compressed with zstd', remedy: gzipOrZstd('zst') },
  { magic: 'BZh', is: 'is compressed with bzip2', remedy: DECOMPRESS },
  { magic: '\xfd7zXZ', is: 'is compressed with xz', remedy: DECOMPRESS },
  { magic: '\x04"M\x18', is: 'is compressed with lz4', remedy: DECOMPRESS },
  { magic: '\xff\x06\0\0sNaPpY', is: 'is compressed with snappy', remedy: DECOMPRESS },
  { magic: '7z\xbc\xaf', is: 'is a 7z archive', remedy: 'extract it' },
  { magic: 'PK\x03\x04', is: 'is a ZIP archive (Excel files are, too)', remedy: 'extract it' },
  { magic: 'ustar', at: 257, is: 'is a tar archive', remedy: 'extract it' },
  { magic: 'PAR1', is: 'is Parquet', remedy: jsonLinesOf('read_parquet') },
  { magic: 'ARROW1', is: 'is Arrow or Feather', remedy: jsonLinesOf('read_feather') },
  { magic: 'ORC', is: 'is ORC', remedy: jsonLinesOf('read_orc') },
  { magic: 'Obj\x01', is: 'is Avro', remedy: BY_PANDAS },
  { magic: '\x80\x04', is: 'is a pickle of Python', remedy: BY_PANDAS },
  { magic: '\x80\x05', is: 'is a pickle of Python', remedy: BY_PANDAS },
  { magic: '\x93NUMPY', is: 'is an array of NumPy', remedy: BY_PANDAS },
  { magic: '\x89HDF', is: 'is HDF5', remedy: BY_PANDAS },
  { magic: 'SQLite format 3', is: 'is a database of SQLite', remedy: BY_PANDAS },
  { magic: '\xd0\xcf\x11\xe0', is: 'is an old Excel file', remedy: BY_PANDAS },
];

/** Enough to recognise a tar archive. */
export const FORMAT_BYTES = 262;

export function otherFormatOf(head: Uint8Array): OtherFormat | undefined {
  const text = latin1(head, 0, FORMAT_BYTES);
  return FORMATS.find(({ magic, at = 0 }) => text.startsWith(magic, at));
}

/** Some lines of a usual file. */
const PEEK_BYTES = 2000;

/**
 * What a file is that is not JSON Lines, and what to do; null when its beginning does not say so.
 *
 * @param start index of the first line that was refused; no line before it gave a row.
 * @param code why the line is refused.
 */
export function likelyCause(bytes: Uint8Array, start: number, code: string): string | null {
  const head = bytes.subarray(start, start + PEEK_BYTES);
  const format = otherFormatOf(head);
  if (format !== undefined) return `The file ${format.is}: ${format.remedy}.`;
  const encoding = encodingOf(head);
  if (encoding !== null) return encoding;
  const text = latin1(head, 0, PEEK_BYTES).replace(/^\xef\xbb\xbf/, '');
  return causeInText(text.trimStart(), code);
}

/** UTF-16 and UTF-32: by a byte order mark, or by the zeros between characters that are ASCII. */
function encodingOf(head: Uint8Array): string | null {
  if (head.length < 4) return null;
  const zeros = head.subarray(0, 16);
  if (zeros.every((byte) => byte === 0)) {
    return 'The file begins with zero bytes: its copy is incomplete, or its disk has lost the content. Write it again.';
  }
  const hex = Buffer.from(head.subarray(0, 4)).toString('hex');
  const [, name, sign] = ENCODINGS.find(([pattern]) => pattern.test(hex)) ?? [];
  if (name === undefined) return null;
  return `The file is ${name} (it has ${sign}): write it as UTF-8 (in Python encoding="utf-8"), or convert it with iconv -f ${name} -t UTF-8 FILE.`;
}

const MARK = 'its byte order mark';
const ZEROS = 'zero bytes between its characters';
/** The first four bytes in hexadecimal digits. */
const ENCODINGS: ReadonlyArray<readonly [pattern: RegExp, name: string, sign: string]> = [
  [/^(fffe0000|0000feff)/, 'UTF-32', MARK],
  [/^(fffe|feff)/, 'UTF-16', MARK],
  [/^(?!00)..000000/, 'UTF-32LE', ZEROS],
  [/^000000/, 'UTF-32BE', ZEROS],
  [/^(?!00)..00(?!00)..00/, 'UTF-16LE', ZEROS],
  [/^00(?!00)..00/, 'UTF-16BE', ZEROS],
];

/** Each in the order in which a file could also look like the next. */
function causeInText(text: string, code: string): string | null {
  const [first = '', second = ''] = text.split(/\r\n|\n|\r/).map((line) => line.trim());
  if (text.startsWith('[')) return causeOfArray(text, first, second);
  if (text.startsWith('{')) return causeOfObject(text, first, second, code);
  if (/^<(!doctype|html|head|body)\b/i.test(text)) {
    return 'The file is an HTML page, often an error page that was saved instead of the data: check the address and the sign-in of the download, and fetch it again.';
  }
  if (/^<\?xml|^<[A-Za-z]+[ >]/.test(text)) {
    return 'The file is XML, often an error message that was saved instead of the data: write JSON Lines, or fetch it again.';
  }
  if (text.startsWith('version https://git-lfs')) {
    return 'The file is a pointer of Git LFS, not the data: fetch the data with git lfs pull.';
  }
  return causeOfTable(first, second);
}

function causeOfArray(text: string, first: string, second: string): string {
  const remedy = `Write one object per line (${IN_PANDAS}), or convert it with jq -c '.[]' FILE.`;
  if (/^\[\s*(\{\s*'|')/.test(text)) {
    return 'The file is a list as Python prints it, with single quotes; it is no JSON array either. Write each row as one line with json.dumps(row).';
  }
  if (/^\[.*\]$/.test(first) && second.startsWith('[')) {
    return `Each line is a JSON array: write objects instead, {"pk":"123","score":100} (${IN_PANDAS}).`;
  }
  if (/^\[\s*\[/.test(text)) {
    return `The file is a JSON array of arrays. Write one object per line (${IN_PANDAS}).`;
  }
  return `The file is a JSON array. ${remedy}`;
}

function causeOfObject(text: string, first: string, second: string, code: string): string | null {
  // What is wrong with an object that is read to its end, `hintOfValue` and `hintOfMissing` say.
  const isUnread = code === 'line_too_long' || code === 'cut_off';
  const isSpread = /^\{$|[,:[{]$/.test(first) && second !== '' && !second.startsWith('{');
  const holder = /^\{\s*"([^"\\]{1,60})"\s*:\s*\[\s*[{[]/.exec(text)?.[1];
  if (holder !== undefined && (isSpread || isUnread)) return causeOfHolder(holder);
  if (isUnread && /^\{\s*"[^"\\]+"\s*:\s*\{\s*"0"\s*:/.test(text)) {
    return `The file is a table by columns, as pandas writes it by default: write one object per line (${IN_PANDAS}).`;
  }
  if (isSpread || first === '{') {
    return `The file is pretty-printed: write each object on one line (${IN_PANDAS}), or convert it with jq -c . FILE.`;
  }
  if (/^\{[^\n]*\}\r(?!\n)\s*\{/.test(text)) {
    return "The line ends are CR without LF: write LF, or convert them with tr '\\r' '\\n' < FILE.";
  }
  // Objects within an object would match without the limit to flat ones.
  if (code === 'line_too_long' && /^\{[^{}[\]\n]*\}\s*,?\s*\{/.test(text)) {
    return 'All objects are on one line: write a newline after each object, or convert it with jq -c . FILE.';
  }
  return null;
}

function causeOfHolder(key: string): string {
  const path = /^[A-Za-z_]\w*$/.test(key) ? `.${key}` : `.["${shown(key)}"]`;
  return `The file is one JSON object that holds a JSON array in "${shown(key)}": write each row on its own line (${IN_PANDAS}), or convert it with jq -c '${path}[]' FILE.`;
}

const DELIMITERS: Readonly<Record<string, readonly [name: string, argument: string]>> = {
  ',': ['', ''],
  ';': [' separated by semicolons', ", sep=';', decimal=','"],
  '\t': [' separated by tabs (TSV)', ", sep='\\t'"],
  '|': [' separated by |', ", sep='|'"],
};

/** Two lines with the same number of cells, or one line that is all. */
function causeOfTable(first: string, second: string): string | null {
  for (const [delimiter, [name, argument]] of Object.entries(DELIMITERS)) {
    const cells = cellsOf(first, delimiter);
    if (cells < 2 || (second !== '' && cellsOf(second, delimiter) !== cells)) continue;
    const header = first.length > 60 ? `${first.slice(0, 60)}…` : first;
    return `The file is CSV${name}; its first line is ${shown(header)}. Write JSON Lines: pandas.read_csv(file${argument}, dtype={'pk': str}), then ${PANDAS}.`;
  }
  return null;
}

/** 0 for a line that is no row of a table. */
function cellsOf(line: string, delimiter: string): number {
  if (/^[[{<(]|[{}]|^\w+\(.*\)$/.test(line)) return 0;
  return line.replace(/"(?:[^"]|"")*"/g, '').split(delimiter).length;
}

/** What to do about a word that JSON does not have at this place. */
const WORDS: ReadonlyArray<readonly [pattern: RegExp, hint: string]> = [
  [
    /^None\b/,
    'None is Python, not JSON. Write lines with json.dumps, and leave out rows without a pk or a score.',
  ],
  [/^(True|False)\b/, 'True and False are Python, not JSON. Write lines with json.dumps.'],
  [
    /^[+-]?(nan|inf(inity)?)\b/i,
    "NaN and Infinity are not JSON; Python writes them for a score that is missing or overflows. Leave out such rows (in pandas df.replace([np.inf, -np.inf], np.nan).dropna(subset=['score'])).",
  ],
  [
    /^(NA|NaT|<NA>|NULL|Null|N\/A|nil|undefined)(?![\w(])/,
    'This is how other languages write a missing value, not JSON. Leave out rows without a pk or a score.',
  ],
  [
    /^([A-Za-z_][\w.]*)?\(/,
    'This is how Python prints an object, not JSON. Write lines with json.dumps, with float(score) and str(pk).',
  ],
  [/^(b["']|')/, 'JSON uses double quotes; Python prints single ones. Write lines with json.dumps.'],
  [/^(\xe2\x80[\x98-\x9f])/, 'These are typographic quotes; JSON uses ".'],
  [
    /^\\["']/,
    'The quotes are escaped once too often. Write the line as it is, without \\ before the quotes.',
  ],
  [/^[+.]\d/, 'JSON numbers begin with a digit or a minus: 0.5, 1.'],
  [/^(#|\/\/|\/\*)/, 'JSON has no comments. Remove the line.'],
];

/**
 * @param before the text of the line before the byte that is wrong.
 * @param after the text from the byte on; from the beginning of its word, if it is inside one.
 * @returns sentences; empty when nothing is known.
 */
export function hintAt(before: string, after: string, expected: string): string {
  const word = WORDS.find(([pattern]) => pattern.test(after));
  if (word !== undefined) return word[1];
  const isAfterDigit = /\d$/.test(before);
  if (/[:\s-]0$/.test(before) && /^\d/.test(after)) {
    return 'JSON numbers have no leading zeros. Write a key with leading zeros as a string ("007").';
  }
  if (/^[\d.]/.test(after) && /\d,\s*$/.test(before)) return 'JSON has a decimal point, not a comma: 0.5.';
  if (isAfterDigit && /^[\w%]/.test(after)) return 'Write the number with decimal digits only: 1000, 0.5.';
  if (/\d\.$/.test(before)) return 'Write a digit after the decimal point: 5.0.';
  if (/,\s*$/.test(before) && /^[}\]]/.test(after)) return `Remove the comma before ${after[0]}.`;
  if (/\bkey\b/.test(expected) && /^[A-Za-z_]\w*\s*:/.test(after)) {
    return 'JSON writes keys in double quotes. Write lines with json.dumps.';
  }
  return /end of the line/.test(expected) ? hintAfterObject(before, after) : '';
}

/** VT, FF, RS, and U+2028, U+2029 and U+0085 in UTF-8 as latin1. */
const OTHER_LINE_ENDS = ['\x0b', '\x0c', '\x1e', '\xe2\x80\xa8', '\xe2\x80\xa9', '\xc2\x85'];

/** The object is complete, and its line is not. */
function hintAfterObject(before: string, after: string): string {
  if (/^,\s*($|\n)/.test(after)) return "Remove the comma after each object: sed 's/,\\s*$//' FILE.";
  if (/^;/.test(after)) return "Remove the semicolon after each object: sed 's/;\\s*$//' FILE.";
  if (after.startsWith('\\n'))
    return 'The two characters \\n are in the file instead of a newline. Write a newline.';
  if (after.startsWith('{') && before.endsWith('\r'))
    return "The line ends are CR without LF: write LF, or convert them with tr '\\r' '\\n' < FILE.";
  if (after.startsWith('{')) return 'Write a newline after each object, or convert it with jq -c . FILE.';
  if (/^,\s*\{/.test(after)) return 'Write a newline instead of a comma after each object.';
  if (OTHER_LINE_ENDS.some((end) => after.startsWith(end)))
    return 'Only LF and CRLF end a line. Write a newline (LF) after each object.';
  return '';
}

/** What to do about a value of pk or score that is JSON, but neither a key nor a number. */
export function hintOfValue(name: 'pk' | 'score', value: string): string {
  const dropped = `Leave out such rows (in pandas df.dropna(subset=['${name}'])).`;
  if (value === 'null') return `null is what pandas writes for NaN and None. ${dropped}`;
  if (/^"\s*(nan|none|null|na|n\/a|nat|<na>|-|)\s*"$/i.test(value) && (name === 'score' || value === '""'))
    return `This is how a missing value became text. ${dropped}`;
  if (/^"[+-]?inf(inity)?"$/i.test(value))
    return 'The score overflows. Leave out such rows, or limit the score.';
  if (/^\{\s*"0"\s*:|^\[/.test(value) && name === 'pk')
    return `The line looks like a table by columns; write one object per row (${IN_PANDAS}).`;
  if (value.startsWith('[')) return 'Write the number alone: float(score[0]).';
  if (value.startsWith('{')) return `Write the ${name === 'pk' ? 'key' : 'number'} itself, not an object.`;
  if (name === 'pk') {
    return /^-?\d/.test(value)
      ? "pandas turns whole numbers into floats when some are missing: df['pk'] = df['pk'].astype('Int64').astype(str)."
      : 'Write the key as a string.';
  }
  if (/^(true|false)$/.test(value)) return 'Write 1 or 0, or the probability.';
  if (/^"\s*[+-]?[\d.]+,\d+\s*"$/.test(value))
    return 'Write a decimal point, and no separator of thousands: 1000.5.';
  if (/^"\s*[+-]?[\d.]+\s*%\s*"$/.test(value)) return 'Write the share as a number without %: 0.5.';
  if (/^"(\s.*|.*\s)"$/.test(value)) return 'Remove the space around the number.';
  if (/^"[^\d]*"$/.test(value)) return 'Write the number that the model returns, not the name of a class.';
  return '';
}

/** Of a key that the line has: its name as text, and the beginning of its value. */
export interface LineKey {
  readonly key: string;
  readonly value: string;
}

/** What to do about a line without `pk` or `score`: often another key, or a deeper object, has it. */
export function hintOfMissing(name: 'pk' | 'score', keys: readonly LineKey[]): string {
  const plain = (key: string) => key.replace(/\\u\{[0-9a-f]+\}|[^\w]/g, '').toLowerCase();
  const same = keys.find(({ key }) => key.toLowerCase() === name);
  if (same !== undefined) {
    return `Keys are case-sensitive: write "${name}", not "${shown(same.key)}" (in pandas df.columns = df.columns.str.lower()).`;
  }
  const spaced = keys.find(({ key }) => plain(key) === name);
  if (spaced !== undefined) {
    return `The key has characters besides "${name}", such as a space or a byte order mark: write it without them (in pandas df.columns = df.columns.str.strip()).`;
  }
  const deeper = keys.find(({ value }) => value.startsWith('{') && value.includes(`"${name}"`));
  if (deeper !== undefined) {
    return `It is inside "${shown(deeper.key)}": write pk and score on the first level of the object.`;
  }
  const holder = keys.find(({ value }) => /^\[\s*[{[]/.test(value));
  if (holder !== undefined) return causeOfHolder(holder.key);
  const pattern = name === 'pk' ? /(^|_)(id|key|uuid|pk)$/i : /score|prob|pred|value/i;
  const similar = keys.find(({ key }) => pattern.test(key));
  if (similar === undefined) return '';
  return `If "${shown(similar.key)}" is the ${name === 'pk' ? 'key' : 'score'}, rename it (in pandas df.rename(columns={'${shown(similar.key)}': '${name}'})).`;
}

function latin1(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1', start, end);
}

/** Text of the file within a sentence: latin1, so that bytes that are not ASCII are not characters. */
function shown(text: string): string {
  return text.replace(/\t/g, '\\t').replace(/[^ -~…]/g, '?');
}
