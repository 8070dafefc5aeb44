const LOOKED_AT_BYTES = 800;

/** What other files begin with. */
const MAGIC: ReadonlyArray<{ bytes: readonly number[]; cause: string }> = [
  { bytes: [0x1f, 0x8b], cause: 'The file is gzip under another name: name it *.jsonl.gz.' },
  { bytes: [0x28, 0xb5, 0x2f, 0xfd], cause: 'The file is zstd under another name: name it *.jsonl.zst.' },
  { bytes: [0x42, 0x5a, 0x68], cause: 'The file is bzip2: decompress it, or compress it with gzip or zstd.' },
  {
    bytes: [0xfd, 0x37, 0x7a, 0x58],
    cause: 'The file is xz: decompress it, or compress it with gzip or zstd.',
  },
  { bytes: [0x50, 0x4b, 0x03, 0x04], cause: 'The file is a ZIP archive: unpack it.' },
  { bytes: [0x50, 0x41, 0x52, 0x31], cause: 'The file is Parquet: write JSON Lines.' },
];
const JSON_LINES = "in pandas df.to_json(path, orient='records', lines=True)";

/**
 * What a file is when it is no JSON Lines at all, as its first line gives it away; null when it does not. A sentence
 * or two that say what to do.
 */
export function likelyCause(bytes: Uint8Array, start: number, end: number): string | null {
  const known = MAGIC.find(({ bytes: magic }) => magic.every((byte, index) => bytes[start + index] === byte));
  if (known) return known.cause;
  if (isWide(bytes, start, end)) {
    return 'The file is UTF-16 or UTF-32: write it as UTF-8, or convert it with iconv -f UTF-16 -t UTF-8 FILE.';
  }
  const line = Buffer.from(bytes.buffer, bytes.byteOffset + start, Math.min(end - start, LOOKED_AT_BYTES))
    .toString('latin1')
    .trim();
  if (/^\[\s*(\{|$)/.test(line)) {
    return `The file is a JSON array: write one object a line (${JSON_LINES}), or convert it with jq -c '.[]' FILE.`;
  }
  if (line === '{') {
    return `The file is pretty-printed: write each object on one line (${JSON_LINES}), or convert it with jq -c . FILE.`;
  }
  if (/^\{[^\n]*\}\r\s*\{/.test(line)) {
    return "The line ends are CR alone: write LF, or convert them with tr '\\r' '\\n'.";
  }
  if (/^["\w .-]+([,;\t|]["\w .+-]*)+$/.test(line))
    return `The file is CSV: write JSON Lines (${JSON_LINES}).`;
  return null;
}

/** ASCII in two or four bytes each: every second byte of the beginning is zero. */
function isWide(bytes: Uint8Array, start: number, end: number): boolean {
  if (end - start < 4) return false;
  const zeros = [0, 1, 2, 3].map((index) => bytes[start + index] === 0);
  return (zeros[0] !== zeros[1] && zeros[2] !== zeros[3]) || (zeros[1] === true && zeros[2] === true);
}
