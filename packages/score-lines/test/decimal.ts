/** The exact value of a number: `digits` × 10^`exponent`; the digits neither begin nor end with a zero. */
export interface Decimal {
  readonly sign: '' | '-';
  /** Empty for zero. */
  readonly digits: string;
  readonly exponent: number;
  /** How the number is written: the exponent behind its e, and its digits behind the point. */
  readonly writtenExponent: number;
  readonly fractionDigits: number;
}

export function decimalOf(source: string): Decimal {
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
