import type { RejectCode } from '../src/index.ts';
import { decimalOf } from './decimal.ts';
import { allModels, depthOf, type JsonModel, modelOf } from './json-model.ts';

/** What must become of a line, by JSON.parse and the rules of the README. */
export type Expectation =
  | { readonly outcome: 'blank' }
  | {
      readonly outcome: 'row';
      readonly pk: string;
      readonly score: string;
      readonly attributes: JsonModel | null;
    }
  /** `codes`: those that would be right; undefined when the line is no JSON and the first fault in it decides. */
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

/** PostgreSQL's limits for numeric; postgres-round-trip.test.ts asks PostgreSQL itself about their edges. */
function fitsNumeric(source: string): boolean {
  const { digits, exponent, writtenExponent, fractionDigits } = decimalOf(source);
  if (Math.abs(writtenExponent) > 1e9) return false;
  return fractionDigits - writtenExponent <= 16_383 && (digits === '' || digits.length + exponent <= 131_072);
}
