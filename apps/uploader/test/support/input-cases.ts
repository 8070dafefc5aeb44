import { gzipSync, zstdCompressSync } from 'node:zlib';

/** A folder as people really produce it, the exit code that it must get, and a word of what must be reported. */
export type InputCase = {
  name: string;
  exitCode: 0 | 65 | 66;
  says: string;
  files: Record<string, string | Buffer>;
};

const rows = Array.from({ length: 30 }, (_, index) => ({ pk: String(index + 1), score: (index + 1) / 7 }));
const lines = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
const extra = '{"pk":"z","score":1}\n';
const plain = { 'a.jsonl': lines };
const utf16 = (text: string) => Buffer.from(text, 'utf16le');
const large = JSON.stringify(Array.from({ length: 60_000 }, (_, n) => ({ pk: String(n), score: 1 })));

const it = (
  name: string,
  exitCode: InputCase['exitCode'],
  says: string,
  files: InputCase['files'],
): InputCase => ({ name, exitCode, says, files });

export const INPUT_CASES: readonly InputCase[] = [
  it('good', 0, '30 rows', plain),
  it('good-upper-case-ending', 0, '30 rows', { 'a.JSONL': lines }),
  it('good-upper-case-gzip', 0, '30 rows', { 'a.jsonl.GZ': gzipSync(lines) }),
  it('good-upper-case-zstd', 0, '30 rows', { 'a.Json.ZST': zstdCompressSync(lines) }),
  it('good-crlf', 0, '30 rows', { 'a.jsonl': lines.replaceAll('\n', '\r\n') }),
  it('good-no-final-newline', 0, '30 rows', { 'a.jsonl': lines.trimEnd() }),
  it('good-gzip-two-members', 0, '31 rows', {
    'a.jsonl.gz': Buffer.concat([gzipSync(lines), gzipSync(extra)]),
  }),
  it('good-zstd-two-frames', 0, '31 rows', {
    'a.jsonl.zst': Buffer.concat([zstdCompressSync(lines), zstdCompressSync(extra)]),
  }),
  it('good-gzip-empty-part', 0, '30 rows', { ...plain, 'b.jsonl.gz': gzipSync('') }),
  it('good-empty-part', 0, '30 rows', { ...plain, 'b.jsonl': '' }),
  it('sidecars', 0, '30 rows', { ...plain, '.a.jsonl.crc': 'crc\0', _SUCCESS: '', 'b.jsonl.tmp': '{' }),

  it('empty-gz', 65, 'b.jsonl.gz', { ...plain, 'b.jsonl.gz': '' }),
  it('empty-zst', 65, 'b.jsonl.zst', { ...plain, 'b.jsonl.zst': '' }),
  it('torn-gz', 65, 'a.jsonl.gz', { 'a.jsonl.gz': gzipSync(lines).subarray(0, -5) }),
  it('torn-zst', 65, 'a.jsonl.zst', { 'a.jsonl.zst': zstdCompressSync(lines).subarray(0, -1) }),
  it('torn-zst-frame', 65, 'a.jsonl.zst', {
    'a.jsonl.zst': Buffer.concat([zstdCompressSync(lines), zstdCompressSync(extra).subarray(0, 2)]),
  }),
  it('gzip-named-plain', 65, 'gzip', { 'a.jsonl': gzipSync(lines) }),
  it('zstd-named-gzip', 65, 'zstd', { 'a.jsonl.gz': zstdCompressSync(lines) }),
  it('plain-named-gzip', 65, 'not compressed', { 'a.jsonl.gz': lines }),
  it('plain-named-zstd', 65, 'not compressed', { 'a.jsonl.zst': lines }),

  it('array-one-line', 65, 'JSON array', { 'a.jsonl': JSON.stringify(rows) }),
  it('array-large', 65, 'JSON array', { 'a.jsonl': large }),
  it('array-indented', 65, 'JSON array', { 'a.json': JSON.stringify(rows, null, 2) }),
  it('objects-indented', 65, 'pretty-printed', {
    'a.jsonl': rows.map((row) => JSON.stringify(row, null, 2)).join('\n'),
  }),
  it('csv', 65, 'CSV', { 'a.jsonl': 'pk,score\n1,0.5\n2,0.7\n' }),
  it('utf-16', 65, 'UTF-16', { 'a.jsonl': utf16(lines) }),
  it('utf-16-with-mark', 65, 'UTF-16', { 'a.jsonl': utf16(`\ufeff${lines}`) }),
  it('bom', 65, 'byte order mark', { 'a.jsonl': `\ufeff${lines}` }),
  it('python-none', 65, 'None', { 'a.jsonl': '{"pk":"1","score":None}\n' }),
  it('python-nan', 65, 'NaN', { 'a.jsonl': '{"pk":"1","score":nan}\n' }),
  it('python-quotes', 65, 'double quotes', { 'a.jsonl': "{'pk':'1','score':1}\n" }),
  it('javascript-nan', 65, 'NaN', { 'a.jsonl': '{"pk":"1","score":NaN}\n' }),
  it('pandas-null', 65, 'null', { 'a.jsonl': '{"pk":"1","score":null}\n' }),
  it('capital-keys', 65, 'PK', { 'a.jsonl': '{"PK":"1","Score":0.5}\n' }),
  it('other-key', 65, 'customer_id', { 'a.jsonl': '{"customer_id":"1","score":0.5}\n' }),
  it('leading-zeros', 65, 'zero', { 'a.jsonl': '{"pk":007,"score":1}\n' }),
  it('float-pk', 65, 'integer', { 'a.jsonl': '{"pk":1.0,"score":1}\n' }),
  it('cr-only', 65, 'line ends', { 'a.jsonl': lines.replaceAll('\n', '\r') }),

  it('bz2-beside', 66, 'b.jsonl.bz2', { ...plain, 'b.jsonl.bz2': 'BZh91AY&SY' }),
  it('no-ending-beside', 66, 'part-00001', { ...plain, 'part-00001': extra }),
  it('csv-beside', 66, 'b.csv', { ...plain, 'b.csv': 'pk,score\n' }),
  it('deeper-data', 66, 'dt=2026-11-02', { ...plain, 'dt=2026-11-02/b.jsonl': extra }),
  it('writer-at-work', 66, '_temporary', { ...plain, '_temporary/0/part-0.jsonl': extra }),
  it('writer-in-vain', 66, 'no data file', { _SUCCESS: '' }),
];
