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
const text = (row: unknown) => JSON.stringify(row);
const utf16 = (text: string) => Buffer.from(text, 'utf16le');
const utf32 = (content: string, endian: 'LE' | 'BE') => {
  const bytes = Buffer.alloc(4 * content.length);
  for (const [index, unit] of utf16(content).entries()) bytes[4 * Math.floor(index / 2) + (index % 2)] = unit;
  return endian === 'LE' ? bytes : bytes.swap32();
};
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

  it('bzip2-named-zstd', 65, 'bzip2', { 'a.jsonl.zst': 'BZh91AY&SY 1234567890' }),
  it('gzip-twice', 65, 'compressed twice', { 'a.jsonl.gz': gzipSync(gzipSync(lines)) }),
  it('zstd-named-plain', 65, 'zstd', { 'a.jsonl': zstdCompressSync(lines) }),
  it('bzip2-named-plain', 65, 'bzip2', { 'a.jsonl': 'BZh91AY&SY\x00\x01' }),
  it('xz-named-plain', 65, 'xz', { 'a.jsonl': Buffer.from('fd377a585a000004', 'hex') }),
  it('zip-named-plain', 65, 'ZIP', { 'a.jsonl': 'PK\x03\x04\x14\x00\x00' }),
  it('tar-named-plain', 65, 'tar', { 'a.jsonl': `a.jsonl${'\0'.repeat(250)}ustar` }),
  it('parquet-named-plain', 65, 'read_parquet', { 'a.jsonl': 'PAR1\x15\x04\x15\x00' }),
  it('pickle-named-plain', 65, 'pickle', { 'a.jsonl': Buffer.from('80049500000000', 'hex') }),
  it('zeros', 65, 'zero bytes', { 'a.jsonl': Buffer.alloc(4096) }),

  it('array-one-line', 65, "jq -c '.[]'", { 'a.jsonl': JSON.stringify(rows) }),
  it('array-large', 65, 'JSON array', { 'a.jsonl': large }),
  it('array-indented', 65, 'JSON array', { 'a.json': JSON.stringify(rows, null, 2) }),
  it('array-with-tabs', 65, 'JSON array', { 'a.json': JSON.stringify(rows, null, '\t') }),
  it('array-after-blank-lines', 65, 'JSON array', { 'a.json': `\n\n ${JSON.stringify(rows)}` }),
  it('array-of-lines', 65, 'lines=True', { 'a.json': `[\n${rows.map(text).join(',\n')}\n]\n` }),
  it('array-begun-in-line', 65, 'JSON array', { 'a.json': `[${rows.map(text).join(',\n')}\n]` }),
  it('array-truncated', 65, 'truncated', { 'a.json': JSON.stringify(rows).slice(0, 300) }),
  it('array-truncated-cause', 65, 'JSON array', { 'a.json': JSON.stringify(rows).slice(0, 300) }),
  it('array-compressed', 65, 'JSON array', { 'a.json.gz': gzipSync(JSON.stringify(rows)) }),
  it('array-with-mark', 65, 'JSON array', { 'a.json': `\ufeff${JSON.stringify(rows)}` }),
  it('array-of-arrays', 65, 'array of arrays', { 'a.json': '[["1",0.5],["2",0.7]]' }),
  it('array-in-python', 65, 'single quotes', { 'a.json': "[{'pk': '1', 'score': 1}]" }),
  it('line-of-arrays', 65, 'Each line is a JSON array', { 'a.jsonl': '["1",0.5]\n["2",0.7]\n' }),
  it('array-in-object', 65, "jq -c '.data[]'", { 'a.json': JSON.stringify({ n: 2, data: rows }) }),
  it('array-in-object-indented', 65, "jq -c '.rows[]'", { 'a.json': JSON.stringify({ rows }, null, 2) }),
  it('array-in-object-large', 65, '"rows"', { 'a.json': `{"rows":${large}}` }),
  it('table-by-columns', 65, "orient='records'", { 'a.json': '{"pk":{"0":"1"},"score":{"0":0.5}}' }),
  it('objects-indented', 65, 'pretty-printed', {
    'a.jsonl': rows.map((row) => JSON.stringify(row, null, 2)).join('\n'),
  }),
  it('objects-with-tabs', 65, 'jq -c .', {
    'a.jsonl': rows.map((row) => JSON.stringify(row, null, '\t')).join('\r\n'),
  }),
  it('objects-over-two-lines', 65, 'pretty-printed', { 'a.jsonl': '{"pk":"1",\n"score":1}\n' }),
  it('objects-on-one-line', 65, 'newline after each object', { 'a.jsonl': rows.map(text).join('') }),
  it('objects-on-one-line-large', 65, 'newline after each object', {
    'a.jsonl': '{"pk":"1","score":1}'.repeat(60_000),
  }),
  it('csv', 65, 'CSV', { 'a.jsonl': 'pk,score\n1,0.5\n2,0.7\n' }),
  it('csv-remedy', 65, 'pandas.read_csv(file, dtype', { 'a.jsonl': '1,0.5\n2,0.7\n' }),
  it('csv-quoted', 65, 'CSV', { 'a.jsonl': '"customer, id","score"\r\n"1, 2","0.5"\r\n' }),
  it('csv-compressed', 65, 'CSV', { 'a.jsonl.zst': zstdCompressSync('pk,score\n1,0.5\n') }),
  it('csv-with-mark', 65, 'CSV', { 'a.jsonl': '\ufeffpk,score\n1,0.5\n' }),
  it('csv-semicolons', 65, "sep=';'", { 'a.jsonl': 'pk;score\n1;0,5\n' }),
  it('csv-tabs', 65, 'TSV', { 'a.jsonl': 'pk\tscore\n1\t0.5\n' }),
  it('utf-16', 65, 'UTF-16', { 'a.jsonl': utf16(lines) }),
  it('utf-16-big-endian', 65, 'iconv -f UTF-16BE', { 'a.jsonl': utf16(lines).swap16() }),
  it('utf-16-with-mark', 65, 'UTF-16', { 'a.jsonl': utf16(`\ufeff${lines}`) }),
  it('utf-16-big-endian-with-mark', 65, 'UTF-16', { 'a.jsonl': utf16(`\ufeff${lines}`).swap16() }),
  it('utf-16-array', 65, 'UTF-16', { 'a.jsonl': utf16(JSON.stringify(rows)) }),
  it('utf-32', 65, 'UTF-32LE', { 'a.jsonl': utf32(lines, 'LE') }),
  it('utf-32-big-endian', 65, 'UTF-32BE', { 'a.jsonl': utf32(lines, 'BE') }),
  it('utf-32-with-mark', 65, 'UTF-32', { 'a.jsonl': utf32(`\ufeff${lines}`, 'LE') }),
  it('bom', 65, 'byte order mark', { 'a.jsonl': `\ufeff${lines}` }),
  it('cr-only', 65, 'line ends', { 'a.jsonl': lines.replaceAll('\n', '\r') }),
  it('cr-only-large', 65, 'line ends', { 'a.jsonl': '{"pk":"1","score":1}\r'.repeat(60_000) }),
  it('html', 65, 'HTML', { 'a.jsonl': '\n<!DOCTYPE html>\n<html><h1>502 Bad Gateway</h1></html>\n' }),
  it('xml', 65, 'XML', { 'a.jsonl': '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>' }),
  it('git-lfs', 65, 'git lfs pull', {
    'a.jsonl': 'version https://git-lfs.github.com/spec/v1\noid sha256:4d\n',
  }),
  it('blank', 65, 'no row', { 'a.jsonl': '\n\r\n \n' }),

  it('bz2-beside', 66, 'b.jsonl.bz2', { ...plain, 'b.jsonl.bz2': 'BZh91AY&SY' }),
  it('no-ending-beside', 66, 'part-00001', { ...plain, 'part-00001': extra }),
  it('csv-beside', 66, 'b.csv', { ...plain, 'b.csv': 'pk,score\n' }),
  it('deeper-data', 66, 'dt=2026-11-02', { ...plain, 'dt=2026-11-02/b.jsonl': extra }),
  it('writer-at-work', 66, '_temporary', { ...plain, '_temporary/0/part-0.jsonl': extra }),
  it('writer-in-vain', 66, 'no data file', { _SUCCESS: '' }),
];

/** A line among good ones, and a word that its reject must contain. */
export const LINE_CASES: ReadonlyArray<readonly [line: string, says: string]> = [
  ['{"pk":"1","score":None}', 'None is Python'],
  ['{"pk":"1","score":1,"vip":True}', 'True and False are Python'],
  ['{"pk":"1","score":nan}', 'NaN'],
  ['{"pk":"1","score":NaN}', 'found NaN'],
  ['{"pk":"1","score":inf}', 'Infinity'],
  ['{"pk":"1","score":-inf}', 'found -inf'],
  ['{"pk":"1","score":Infinity}', 'np.inf'],
  ['{"pk":"1","score":-Infinity}', 'Infinity'],
  ['{"pk":"1","score":"NaN"}', 'dropna'],
  ['{"pk":"1","score":""}', 'missing value'],
  ['{"pk":"1","score":null}', 'null is what pandas writes'],
  ['{"pk":null,"score":1}', "dropna(subset=['pk'])"],
  ['{"pk":"1","score":NA}', 'missing value'],
  ["{'pk': '1', 'score': 1}", 'json.dumps'],
  [`{"pk":'1',"score":1}`, 'double quotes'],
  ['{"pk":"1","score":np.float64(0.5)}', 'float(score)'],
  ['Row(pk="1", score=0.5)', 'Python prints'],
  ['{“pk”:"1","score":1}', 'typographic'],
  ['{\\"pk\\":\\"1\\",\\"score\\":1}', 'escaped'],
  ['"{\\"pk\\":\\"1\\",\\"score\\":1}"', 'json.dumps was called twice'],
  ['{pk:"1",score:1}', 'keys in double quotes'],
  ['{"pk":007,"score":1}', 'leading zeros'],
  ['{"pk":-007,"score":1}', 'leading zeros'],
  ['{"pk":1.0,"score":1}', 'Int64'],
  ['{"pk":"1","score":0,5}', 'decimal point'],
  ['{"pk":"1","score":"0,5"}', 'decimal point'],
  ['{"pk":"1","score":.5}', 'begin with a digit'],
  ['{"pk":"1","score":"50 %"}', 'without %'],
  ['{"pk":"1","score":"high"}', 'name of a class'],
  ['{"pk":"1","score":true}', '1 or 0'],
  ['{"pk":"1","score":[0.5]}', 'float(score[0])'],
  ['{"pk":"1","score":{"mean":0.5}}', 'not an object'],
  ['{"pk":"1","score":1},', 'comma after each object'],
  ['{"pk":"1","score":1,}', 'Remove the comma'],
  ['{"pk":"1","score":1}{"pk":"2","score":1}', 'newline after each object'],
  ['{"pk":"1","score":1}\\n{"pk":"2","score":1}', 'instead of a newline'],
  ['{"pk":"1","score":1}\u2028{"pk":"2","score":1}', 'Only LF and CRLF'],
  ['{"PK":"1","Score":0.5}', 'not "PK"'],
  ['{"Pk":"1","Score":0.5}', 'It has "Pk", "Score"'],
  ['{"pk":"1","SCORE":0.5}', 'not "SCORE"'],
  ['{" pk":"1","score":0.5}', 'str.strip'],
  ['{"customer_id":"1","score":0.5}', "{'customer_id': 'pk'}"],
  ['{"pk":"1","probability":0.5}', "{'probability': 'score'}"],
  ['{"row":{"pk":"1","score":0.5}}', 'inside "row"'],
  [']', 'end of a JSON array'],
  ['}', 'on several lines'],
  ['{}', 'no keys'],
  ['{"pk":"3"}', 'It has "pk"'],
  ['{"score":3}', 'It has "score"'],
  ['Traceback (most recent call last):', 'found Traceback'],
  ['# a comment', 'no comments'],
];
