import type { Attribute } from 'wire';
import {
  decodeString,
  excerpt,
  hasEscape,
  isDigit,
  MINUS,
  QUOTE,
  skipString,
  skipWhitespace,
} from './json-syntax.ts';
import { isScore, numberOf } from './numbers.ts';
import { LineFault } from './rejects.ts';

interface Rule {
  readonly attribute: Attribute;
  /** The name and the allowed texts as JSON writes them without escapes, with their quotes. */
  readonly key: Buffer;
  readonly texts: readonly Buffer[] | undefined;
}

/** `null` counts as absent, as in the typed view: pandas writes it for a missing value. */
const LETTER_N = 0x6e;
const LETTER_T = 0x74;
const LETTER_F = 0x66;

/**
 * The attributes that a contract declares. Checks a line that is correct in every other way, so that a line that is cut
 * off, or is not JSON, is reported as that.
 */
export class AttributeSchema {
  readonly hasRequired: boolean;
  readonly #rules: readonly Rule[];
  readonly #requiredCount: number;

  constructor(attributes: readonly Attribute[]) {
    this.#rules = attributes.map((attribute) => ({
      attribute,
      key: Buffer.from(JSON.stringify(attribute.name)),
      texts:
        attribute.type === 'string'
          ? attribute.enum?.map((text) => Buffer.from(JSON.stringify(text)))
          : undefined,
    }));
    this.#requiredCount = attributes.filter(({ required }) => required).length;
    this.hasRequired = this.#requiredCount > 0;
  }

  /**
   * @param spans the members of the line's object, without pk and score: from spans[0] to spans[1], and so on.
   * @throws {LineFault} the first attribute that breaks its rule; else the first that is missing.
   */
  check(bytes: Uint8Array, lineStart: number, spans: readonly number[]): void {
    const rules = this.#rules;
    let missing = this.#requiredCount;
    let next = 0;
    for (let index = 0; index < spans.length; index += 2) {
      const keyStart = spans[index] as number;
      const keyEnd = skipString(bytes, keyStart);
      // Most writers keep the order of the keys: the next rule is nearly always the right one.
      const found = this.#find(bytes, keyStart, keyEnd, next);
      if (found < 0) continue;
      next = found + 1;
      const rule = rules[found] as Rule;
      const valueStart = skipWhitespace(bytes, skipWhitespace(bytes, keyEnd) + 1);
      if (bytes[valueStart] === LETTER_N) continue;
      if (rule.attribute.required) missing--;
      const valueEnd = spans[index + 1] as number;
      if (!isAllowed(rule, bytes, valueStart, valueEnd))
        throw invalid(rule.attribute, bytes, valueStart, valueEnd);
    }
    if (missing > 0) throw this.#missing(bytes, lineStart, spans);
  }

  /** The index of the rule for the key, which may be written with escapes; -1 when the contract does not declare it. */
  #find(bytes: Uint8Array, start: number, end: number, next: number): number {
    const rules = this.#rules;
    for (let tried = 0; tried < rules.length; tried++) {
      const index = (next + tried) % rules.length;
      if (isSame(bytes, start, end, (rules[index] as Rule).key)) return index;
    }
    if (!hasEscape(bytes, start, end)) return -1;
    const name = decodeString(bytes, start, end);
    return rules.findIndex(({ attribute }) => attribute.name === name);
  }

  #missing(bytes: Uint8Array, lineStart: number, spans: readonly number[]): LineFault {
    const present = new Map<string, boolean>();
    for (let index = 0; index < spans.length; index += 2) {
      const start = spans[index] as number;
      const keyEnd = skipString(bytes, start);
      const valueStart = skipWhitespace(bytes, skipWhitespace(bytes, keyEnd) + 1);
      present.set(decodeString(bytes, start, keyEnd), bytes[valueStart] === LETTER_N);
    }
    const names = this.#rules.flatMap(({ attribute: { name, required } }) =>
      required && present.get(name) !== false ? [name] : [],
    );
    const [first = ''] = names;
    const more = names.length > 1 ? ` (and ${names.slice(1).map(shown).join(', ')})` : '';
    const isNull = present.get(first) === true;
    const found = isNull
      ? `it is null in this line`
      : (otherCase(first, present.keys()) ?? 'the line does not have it');
    const detail = `The attribute ${shown(first)}${more} is required by the contract of the model; ${found}. Write ${needed(this.#rules, first)}, or leave out the line.`;
    return new LineFault('missing_attribute', lineStart, detail);
  }
}

function otherCase(name: string, keys: Iterable<string>): string | undefined {
  for (const key of keys)
    if (key.toLowerCase() === name.toLowerCase())
      return `keys are case-sensitive, and the line has ${shown(key)}`;
  return undefined;
}

function needed(rules: readonly Rule[], name: string): string {
  const rule = rules.find(({ attribute }) => attribute.name === name);
  return rule === undefined ? 'it' : describe(rule.attribute);
}

function isSame(bytes: Uint8Array, start: number, end: number, text: Buffer): boolean {
  if (end - start !== text.length) return false;
  for (let at = 1; at < text.length; at++) if (bytes[start + at] !== text[at]) return false;
  return true;
}

function isAllowed({ attribute, texts }: Rule, bytes: Uint8Array, start: number, end: number): boolean {
  const byte = bytes[start];
  if (attribute.type === 'boolean') return byte === LETTER_T || byte === LETTER_F;
  if (attribute.type === 'string') {
    if (byte !== QUOTE) return false;
    if (texts === undefined || texts.some((text) => isSame(bytes, start, end, text))) return true;
    // The line, or JSON.stringify, may have written the text with escapes.
    return attribute.enum?.includes(decodeString(bytes, start, end)) === true;
  }
  if (byte !== MINUS && !isDigit(byte)) return false;
  if (attribute.type === 'integer' ? !isBigint(bytes, start, end) : !isScore(bytes, start, end)) return false;
  const { min, max, enum: values } = attribute;
  if (min === undefined && max === undefined && values === undefined) return true;
  const value = numberOf(bytes, start, end);
  if ((min !== undefined && value < min) || (max !== undefined && value > max)) return false;
  return values === undefined || values.includes(value);
}

/** Whole numbers of up to 15 digits need no closer look. */
const SHORT_DIGITS = 15;
const BIGINT_MIN = -(2n ** 63n);
const BIGINT_MAX = 2n ** 63n - 1n;

/** Whether a number in JSON's grammar is a whole number in the range of bigint: 7, 7.0 and 7e3 are. */
function isBigint(bytes: Uint8Array, start: number, end: number): boolean {
  let at = bytes[start] === MINUS ? start + 1 : start;
  const isShort = end - at <= SHORT_DIGITS;
  while (at < end && isDigit(bytes[at])) at++;
  if (at === end && isShort) return true;
  const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1');
  const [, sign = '', whole = '', fraction = '', exponent = '0'] =
    /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([-+]?\d+))?$/.exec(text) ?? [];
  const digits = (whole + fraction).replace(/^0+(?=\d)/, '');
  const kept = digits.replace(/0+$/, '');
  if (kept === '') return true;
  // The value is `kept` followed by this many zeros.
  const zeros = digits.length - kept.length + Number(exponent) - fraction.length;
  if (zeros < 0 || kept.length + zeros > 19) return false;
  const value = BigInt(`${sign}${kept}${'0'.repeat(zeros)}`);
  return value >= BIGINT_MIN && value <= BIGINT_MAX;
}

function invalid(attribute: Attribute, bytes: Uint8Array, start: number, end: number): LineFault {
  const isQuotedNumber =
    (attribute.type === 'number' || attribute.type === 'integer') &&
    bytes[start] === QUOTE &&
    isScore(bytes, start + 1, end - 1);
  const hint = isQuotedNumber
    ? 'Write the number without quotes.'
    : 'Correct the value or leave out the line; if the value is right, change the contract.';
  const found = excerpt(bytes, start, end, 60);
  const detail = `The attribute ${shown(attribute.name)} must be ${describe(attribute)}; found ${found}. ${hint}`;
  return new LineFault('invalid_attribute', start, detail);
}

const TYPES = {
  string: 'a string',
  number: 'a number in the range of double precision',
  integer: 'an integer in the range of bigint',
  boolean: 'true or false',
} as const;
const SHOWN_VALUES = 10;

/** `an integer from 1 to 10`, `one of "A", "B"`. */
function describe(attribute: Attribute): string {
  if (attribute.type === 'boolean') return TYPES.boolean;
  const values = attribute.enum?.slice(0, SHOWN_VALUES).map(shown);
  const more = (attribute.enum?.length ?? 0) - SHOWN_VALUES;
  const list = values && `one of ${values.join(', ')}${more > 0 ? ` and ${more} more values` : ''}`;
  if (attribute.type === 'string') return list ?? TYPES.string;
  const { type, min, max } = attribute;
  const kind = type === 'integer' ? 'an integer' : 'a number';
  const range =
    min !== undefined && max !== undefined
      ? `${kind} from ${min} to ${max}`
      : min !== undefined
        ? `${kind} of at least ${min}`
        : max !== undefined
          ? `${kind} of at most ${max}`
          : undefined;
  if (list !== undefined && range !== undefined) return `${range}, and ${list}`;
  return list ?? range ?? TYPES[type];
}

/** A name or a value of the contract, as JSON; its characters are printable, or escaped. */
function shown(value: string | number): string {
  const text = Buffer.from(JSON.stringify(value));
  return excerpt(text, 0, text.length, 80);
}
