import type { Random } from './random.ts';

const NEWLINE = 0x0a;

/** Makes lines from the usual to the hostile, without their newline. About a third of them are refused. */
export function generateLine(random: Random): Buffer {
  const kind = random.int(100);
  if (kind < 25) {
    const line = Buffer.from(usualLine(random));
    return kind < 20 ? line : mutate(random, line);
  }
  if (kind < 28) return Buffer.from(random.pick(plainLines));
  const line = Buffer.from(objectLine(random));
  return kind < 80 ? line : mutate(random, line);
}

function usualLine(random: Random): string {
  const [open, colon, comma, close] = random.chance(0.5) ? ['{ ', ': ', ', ', ' }'] : ['{', ':', ',', '}'];
  const quote = random.pick(['"', '"', '"', '']);
  const pkQuote = random.pick(['"', '"', '"', '']);
  const score = random.chance(0.8) ? `${random.int(2000) / 100}` : random.pick(numbers);
  return `${open}"pk"${colon}${pkQuote}${random.int(1e9)}${pkQuote}${comma}"score"${colon}${quote}${score}${quote}${close}`;
}

function objectLine(random: Random): string {
  const members: string[] = [];
  if (random.chance(0.98)) members.push(`${keyText(random, 'pk')}${colon(random)}${pkValue(random)}`);
  if (random.chance(0.98)) members.push(`${keyText(random, 'score')}${colon(random)}${scoreValue(random)}`);
  const attributeCount = random.pick([0, 0, 1, 2, 3, random.chance(0.05) ? 40 : 4]);
  for (let index = 0; index < attributeCount; index++) members.push(member(random, `k${index}`, 2));
  if (random.chance(0.02))
    members.push(random.pick(['"pk":1', '"score":2', '"p\\u006b":"x"', '"k0":0', '"\\u006b1":1']));
  if (random.chance(0.3)) members.reverse();
  return `${space(random)}{${space(random)}${members.join(`${space(random)},${space(random)}`)}}${space(random)}`;
}

function member(random: Random, name: string, depth: number): string {
  const key = random.chance(0.2) ? stringValue(random) : keyText(random, name);
  return `${key}${colon(random)}${value(random, depth)}`;
}

function keyText(random: Random, name: string): string {
  if (random.chance(0.9)) return `"${name}"`;
  const escaped = random.int(name.length);
  return `"${[...name].map((letter, index) => (index === escaped ? `\\u00${letter.charCodeAt(0).toString(16)}` : letter)).join('')}"`;
}

function pkValue(random: Random): string {
  const kind = random.int(20);
  if (kind < 5) return `${random.int(1e9)}`;
  if (kind === 5)
    return random.pick([
      'null',
      'true',
      '{}',
      '[]',
      '""',
      '1.0',
      '1e3',
      '-0',
      '-5',
      '007',
      '12345678901234567890',
    ]);
  if (kind === 6 && random.chance(0.1)) return `"${'x'.repeat(2040 + random.int(16))}"`;
  return stringValue(random);
}

function scoreValue(random: Random): string {
  const number = random.chance(0.04) ? random.pick([...badNumbers, ...numericNumbers]) : random.pick(numbers);
  if (random.chance(0.02))
    return random.pick(['null', '""', '" 1"', '"1 "', '"\\u0031"', '"1\\n"', '{}', '[1]', '"１"']);
  return random.chance(0.5) ? `"${number}"` : number;
}

function value(random: Random, depth: number): string {
  const kind = random.int(depth > 0 ? 8 : 6);
  if (kind < 2)
    return random.chance(0.01)
      ? random.pick(badNumbers)
      : random.pick(random.chance(0.05) ? numericNumbers : numbers);
  if (kind < 5) return stringValue(random);
  if (kind === 5)
    return random.pick([
      'true',
      'false',
      'null',
      '{}',
      '[]',
      nested(random),
      random.chance(0.02) ? 'nul' : '[[]]',
    ]);
  const items = Array.from({ length: random.int(4) }, (_, index) =>
    kind === 6 ? value(random, depth - 1) : member(random, `n${index}`, depth - 1),
  );
  const text = items.join(`${space(random)},${space(random)}`);
  return kind === 6 ? `[${space(random)}${text}]` : `{${text}${space(random)}}`;
}

function nested(random: Random): string {
  const levels = random.pick([2, 5, 253, 254, 255, 256, 257, 300]);
  return `${'['.repeat(levels)}${']'.repeat(levels)}`;
}

function stringValue(random: Random): string {
  let text = '';
  for (let count = 1 + random.int(6); count > 0; count--) {
    text += random.chance(0.005) ? random.pick(badStringPieces) : random.pick(stringPieces);
  }
  return `"${text}"`;
}

function colon(random: Random): string {
  return `${space(random)}:${space(random)}`;
}

function space(random: Random): string {
  return random.chance(0.8) ? '' : random.pick([' ', '\t', '\r', '  ', ' \t']);
}

/** Damages a line as disks and editors do: changes, adds or removes a byte, removes or repeats a part. */
function mutate(random: Random, line: Buffer): Buffer {
  const at = random.int(line.length);
  const to = at + random.int(line.length - at);
  const byte = Buffer.of(
    random.chance(0.5) ? random.int(256) : random.pick([...Buffer.from('"\\{}[]:,.-0e \0\t\r')]),
  );
  const [before, after] = [line.subarray(0, at), line.subarray(at)];
  const damaged = random.pick([
    () => [before],
    () => [after],
    () => [before, byte, after],
    () => [before, byte, after.subarray(1)],
    () => [before, after.subarray(1)],
    () => [line.subarray(0, to), after],
    () => [before, line.subarray(to)],
    () => [line, line],
  ])();
  return Buffer.concat(damaged).map((each) => (each === NEWLINE ? 0x20 : each)) as Buffer;
}

// The parts of generated lines: usual, rare and refused ones.

const stringPieces = [
  'a',
  'pk',
  'score',
  '7',
  ' ',
  'é',
  '€',
  '😀',
  '\u2028',
  '\ufeff',
  '\uffff',
  '\u{10ffff}',
  '\x7f',
  "'",
  '{',
  ',',
  '\\"',
  '\\\\',
  '\\/',
  '\\b',
  '\\f',
  '\\n',
  '\\r',
  '\\t',
  '\\u0041',
  '\\u00e9',
  '\\u20AC',
  '\\ud83d\\ude00',
  '\\\\.',
  '\\\\N',
  '\\u005c',
  '\\u0009',
  '\\u000a',
  '\\uFFFF',
];
const badStringPieces = [
  '\\u0000',
  '\\ud800',
  '\\udc00',
  '\\udc00\\ud800',
  '\t',
  '\0',
  '\x01',
  '\\x',
  '\\u12',
  '\\',
  '"',
];

const numbers = [
  '0',
  '-0',
  '1',
  '-1',
  '100',
  '0.5',
  '-12.50',
  '1.10',
  '1e5',
  '1E-5',
  '1.5e+3',
  '0e0',
  '-0.0e-0',
  '123456789012',
  '12345678901234567890',
  '0.1234567890123456789',
  '5e-324',
  '2.4703282292062328e-324',
  '1.7976931348623158e308',
  '0e1000000000',
  `0.1${'0'.repeat(400)}`,
];
const numericNumbers = [
  '1e131071',
  '0.01e131073',
  '1e-16383',
  '10e-16383',
  `1${'0'.repeat(400)}`,
  `0.${'0'.repeat(400)}1`,
  '1e400',
];
const badNumbers = [
  '01',
  '1.',
  '.5',
  '+1',
  '-',
  '1e',
  '1e+',
  '0x10',
  'NaN',
  'Infinity',
  '-Infinity',
  '1_000',
  '1,5',
  '--1',
  '1e400',
  '1e131072',
  '1e-16384',
  '1.0e-16383',
  '1e-400',
  '2.4703282292062327e-324',
  '1.7976931348623159e308',
  '0e-16384',
  '0e1000000001',
  '0e99999999999999999999',
];
const plainLines = [
  '',
  ' ',
  '\t',
  '\r',
  '\\.',
  'null',
  '[]',
  '17',
  '"x"',
  '{}',
  'pk,score',
  '\ufeff{"pk":"1","score":1}',
];
