import type { RejectCode } from '../src/index.ts';

/** The expected result for a line, by JSON.parse and the rules of the README. */
export type Expectation =
  | { readonly outcome: 'blank' }
  | {
      readonly outcome: 'row';
      readonly pk: string;
      readonly score: string;
      readonly attributes: JsonModel | null;
    }
  /** `codes`: the correct ones; undefined when the line is not JSON, where the first fault decides. */
  | { readonly outcome: 'rejected'; readonly codes: ReadonlySet<RejectCode> | undefined };

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$/;
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function expectationOf(line: Buffer): Expectation {
  let text: string;
  let model: JsonModel;
  try {
    text = decoder.decode(line);
    if (/^[ \t\r]*$/.test(text)) return { outcome: 'blank' };
    model = modelOf(text);
  } catch {
    return { outcome: 'rejected', codes: undefined };
  }
  const codes = faultsOf(model);
  if (codes.size > 0 || model.kind !== 'object') return { outcome: 'rejected', codes };
  const member = (name: string): JsonModel | undefined => model.members.find(([key]) => key === name)?.[1];
  const attributes = model.members.filter(([key]) => key !== 'pk' && key !== 'score');
  return {
    outcome: 'row',
    pk: textOf(member('pk')),
    score: textOf(member('score')),
    attributes: attributes.length === 0 ? null : { kind: 'object', members: attributes },
  };
}

function faultsOf(model: JsonModel): Set<RejectCode> {
  const codes = new Set<RejectCode>();
  if (depthOf(model) > 256) codes.add('too_deep');
  if (model.kind !== 'object') return codes.add('not_an_object');
  const pks = model.members.filter(([key]) => key === 'pk').map(([, value]) => value);
  const scores = model.members.filter(([key]) => key === 'score').map(([, value]) => value);
  if (pks.length === 0) codes.add('missing_pk');
  if (scores.length === 0) codes.add('missing_score');
  if (pks.length > 1) codes.add('duplicate_pk_key');
  if (scores.length > 1) codes.add('duplicate_score_key');
  for (const pk of pks) {
    if (!(pk.kind === 'string' ? pk.text !== '' : /^-?\d+$/.test(textOf(pk)))) codes.add('invalid_pk');
    else if (Buffer.byteLength(textOf(pk)) > 2048) codes.add('pk_too_long');
  }
  for (const score of scores) if (!isScore(textOf(score))) codes.add('invalid_score');

  for (const part of allModels(model)) {
    if (part.kind === 'string') addTextFaults(part.text, codes);
    if (
      part.kind === 'number' &&
      !pks.includes(part) &&
      !scores.includes(part) &&
      !fitsNumeric(part.source)
    ) {
      codes.add('number_out_of_range');
    }
    if (part.kind !== 'object') continue;
    const keys = part.members.map(([key]) => key);
    for (const key of keys) addTextFaults(key, codes);
    const compared = part === model ? keys.filter((key) => key !== 'pk' && key !== 'score') : keys;
    if (new Set(compared).size < compared.length) codes.add('duplicate_attribute');
  }
  return codes;
}

function addTextFaults(text: string, codes: Set<RejectCode>): void {
  if (text.includes('\0')) codes.add('nul');
  if (!text.isWellFormed()) codes.add('lone_surrogate');
}

function textOf(model: JsonModel | undefined): string {
  if (model?.kind === 'string') return model.text;
  return model?.kind === 'number' ? model.source : '';
}

function isScore(text: string): boolean {
  if (!NUMBER.test(text)) return false;
  const isZero = decimalOf(text).digits === '';
  return isZero || (Number.isFinite(Number(text)) && Number(text) !== 0);
}

/** PostgreSQL's limits for numeric; postgres-round-trip.test.ts checks them against PostgreSQL. */
function fitsNumeric(source: string): boolean {
  const { digits, exponent, writtenExponent, fractionDigits } = decimalOf(source);
  if (Math.abs(writtenExponent) > 1e9) return false;
  return fractionDigits - writtenExponent <= 16_383 && (digits === '' || digits.length + exponent <= 131_072);
}

/**
 * What a JSON text says, exactly: numbers as they are written, equal keys seen. It is made from text that JSON.parse
 * has accepted, by another way than the scanner's, so that the one can check the other.
 */
type JsonModel =
  | { readonly kind: 'string'; readonly text: string }
  | { readonly kind: 'number'; readonly source: string }
  | { readonly kind: 'word'; readonly source: string }
  | { readonly kind: 'array'; readonly items: readonly JsonModel[] }
  | { readonly kind: 'object'; readonly members: readonly (readonly [key: string, value: JsonModel])[] };

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g;

export function modelOf(jsonText: string): JsonModel {
  JSON.parse(jsonText);
  const tokens = jsonText.match(TOKEN) ?? [];
  let next = 0;
  const take = (): string => tokens[next++] ?? '';

  function readValue(): JsonModel {
    const token = take();
    if (token === '{') return { kind: 'object', members: readItems('}', readMember) };
    if (token === '[') return { kind: 'array', items: readItems(']', readValue) };
    if (token.startsWith('"')) return { kind: 'string', text: JSON.parse(token) };
    return /^[tfn]/.test(token) ? { kind: 'word', source: token } : { kind: 'number', source: token };
  }

  function readMember(): readonly [string, JsonModel] {
    const key = JSON.parse(take()) as string;
    take(); // the colon
    return [key, readValue()];
  }

  function readItems<Item>(close: string, readItem: () => Item): Item[] {
    const items: Item[] = [];
    if (tokens[next] === close) {
      next++;
      return items;
    }
    do items.push(readItem());
    while (take() === ',');
    return items;
  }

  return readValue();
}

function depthOf(model: JsonModel): number {
  if (model.kind === 'array') return 1 + Math.max(0, ...model.items.map(depthOf));
  if (model.kind === 'object') return 1 + Math.max(0, ...model.members.map(([, value]) => depthOf(value)));
  return 0;
}

/** Every model in a model, itself first. */
function allModels(model: JsonModel, found: JsonModel[] = []): JsonModel[] {
  found.push(model);
  if (model.kind === 'array') for (const item of model.items) allModels(item, found);
  if (model.kind === 'object') for (const [, value] of model.members) allModels(value, found);
  return found;
}

/** The text of a model in one spelling, to compare two; `spellNumber` says what makes numbers equal. */
export function spell(model: JsonModel, spellNumber: (source: string) => string): string {
  switch (model.kind) {
    case 'string':
      return JSON.stringify(model.text);
    case 'number':
      return spellNumber(model.source);
    case 'word':
      return model.source;
    case 'array':
      return `[${model.items.map((item) => spell(item, spellNumber)).join(',')}]`;
    case 'object': {
      const members = model.members.map(
        ([key, value]) => `${JSON.stringify(key)}:${spell(value, spellNumber)}`,
      );
      return `{${members.sort().join(',')}}`;
    }
  }
}

/** The exact value of a number: `digits` × 10^`exponent`; the digits neither begin nor end with a zero. */
interface Decimal {
  readonly sign: '' | '-';
  /** Empty for zero. */
  readonly digits: string;
  readonly exponent: number;
  /** As in the text: the exponent after the e, and the number of digits after the point. */
  readonly writtenExponent: number;
  readonly fractionDigits: number;
}

function decimalOf(source: string): Decimal {
  const [mantissa = '', exponentText = '0'] = source.replace(/^-/, '').split(/e/i);
  const [whole = '', fraction = ''] = mantissa.split('.');
  const significant = (whole + fraction).replace(/^0+/, '');
  const digits = significant.replace(/0+$/, '');
  const writtenExponent = Number(exponentText);
  return {
    sign: source.startsWith('-') && digits !== '' ? '-' : '',
    digits,
    exponent: digits === '' ? 0 : writtenExponent - fraction.length + significant.length - digits.length,
    writtenExponent,
    fractionDigits: fraction.length,
  };
}

/** One spelling for all numbers of the same value: 1.10 and 11e-1. */
export function spellDecimal(source: string): string {
  const { sign, digits, exponent } = decimalOf(source);
  return `${sign}${digits}e${exponent}`;
}
