import { expect } from 'chai';
import { nearestQuotient, numberOf } from '../src/numbers.ts';
import { createRandom, testLineCount, testSeed } from './random.ts';

const read = (text: string) => numberOf(Buffer.from(text), 0, text.length);

describe('a score as a double', () => {
  it('is the nearest one to its digits, as Number says, for random decimals', () => {
    const random = createRandom(testSeed());
    const digits = (count: number) => Array.from({ length: count }, () => random.int(10)).join('');
    for (let i = 0; i < testLineCount(200_000); i++) {
      const whole = String(random.int(random.pick([1, 10, 1000, 1_000_000])));
      const text = `${random.chance(0.1) ? '-' : ''}${whole}.${digits(1 + random.int(20))}`;
      if (!Object.is(read(text), Number(text))) expect.fail(`${text} was read as ${read(text)}`);
    }
  });

  it('is the same double again when a double is written in full', () => {
    const random = createRandom(testSeed());
    const double = new Float64Array(1);
    const words = new Uint32Array(double.buffer);
    for (let i = 0; i < testLineCount(200_000); i++) {
      words[0] = random.int(2 ** 32);
      words[1] = ((1023 - 20 + random.int(60)) << 20) + random.int(2 ** 20); // 1e-6 to 1e12
      const text = String(double[0]);
      if (!Object.is(read(text), double[0])) expect.fail(`${text} was read as ${read(text)}`);
    }
  });

  it('is right in the middle between two doubles, and beside powers of two', () => {
    const middles = [
      '9007199254740993',
      '9007199254740995',
      '0.50000000000000005',
      '0.12500000000000001',
      '4503599627370496.5',
    ];
    for (const text of [
      ...middles,
      '0.1',
      '0.3',
      '-0.0',
      '0',
      '123456789012345.25',
      '0.000000000000000001',
    ]) {
      expect(Object.is(read(text), Number(text)), text).to.equal(true);
    }
  });

  it('is left to Number where a hundred bits do not tell', () => {
    expect(nearestQuotient(900_719_925_474_099, 10, 3, 1)).to.be.NaN;
  });
});
