import { expect } from 'chai';
import { type Attribute, contract } from 'wire';
import { readCopyBinary, scanFile } from './scan-file.ts';

function scan(attributes: readonly Attribute[], ...lines: string[]) {
  return scanFile(lines.map((line) => `${line}\n`).join(''), undefined, undefined, attributes);
}

/** The code for a line whose attribute `a` has this JSON text; undefined for a row. */
function codeOf(attribute: Attribute, json: string): string | undefined {
  return scan([attribute], `{"pk":"1","score":1,${JSON.stringify(attribute.name)}:${json}}`).rejects[0]?.code;
}

const TYPES: Readonly<Record<Attribute['type'], { ok: readonly string[]; wrong: readonly string[] }>> = {
  string: {
    ok: ['""', '"x"', '"\\u0041\\n"', '"é"', '"1"', '"true"'],
    wrong: ['1', 'true', 'false', '[]', '["x"]', '{}', '{"a":"x"}', '-1.5'],
  },
  boolean: { ok: ['true', 'false'], wrong: ['"true"', '0', '1', '[]', '{}', '""'] },
  number: {
    ok: [
      '0',
      '-0',
      '1',
      '-1.5',
      '1e3',
      '1E-3',
      '1.7976931348623157e308',
      '5e-324',
      '123456789012345678901234567890',
      '0e9',
    ],
    wrong: ['"1"', 'true', '[1]', '{}', '1e309', '-1e309', '1e-400', '""'],
  },
  integer: {
    ok: [
      ...['0', '-0', '7', '-7', '7.0', '7.00e0', '70e-1', '7e3', '0.7e1', '0e-99', '0.000', '100000e-5'],
      ...['9223372036854775807', '-9223372036854775808', '9223372036854775807.0', '922337203685477580.7e1'],
    ],
    wrong: [
      ...['7.5', '1e-1', '75e-1', '"7"', 'true', '[]', '{}', '1e19', '1e999', '0.7'],
      ...['9223372036854775808', '-9223372036854775809', '9007199254740993.5', '99999999999999999999'],
    ],
  },
};

describe('attributes that a contract declares', () => {
  for (const [type, { ok, wrong }] of Object.entries(TYPES)) {
    it(`of type ${type} accept its values, and refuse every other`, () => {
      for (const required of [true, false]) {
        const attribute = { name: 'a', type, required } as Attribute;
        for (const json of ok) expect(codeOf(attribute, json), json).to.equal(undefined);
        for (const json of wrong) expect(codeOf(attribute, json), json).to.equal('invalid_attribute');
        expect(codeOf(attribute, 'null')).to.equal(required ? 'missing_attribute' : undefined);
      }
    });
  }

  it('keep numbers in their range and values in their list, limits included', () => {
    const between: Attribute = { name: 'a', type: 'integer', min: 1, max: 10 };
    expect(['1', '10', '10.0', '1e1'].map((json) => codeOf(between, json))).to.deep.equal(
      Array(4).fill(undefined),
    );
    expect(['0', '11', '-5', '9223372036854775807'].map((json) => codeOf(between, json))).to.deep.equal(
      Array(4).fill('invalid_attribute'),
    );
    const share: Attribute = { name: 'a', type: 'number', min: 0, max: 0.5 };
    expect(['0', '-0', '0.5', '5e-1', '0.50'].map((json) => codeOf(share, json))).to.deep.equal(
      Array(5).fill(undefined),
    );
    expect(['0.50001', '-1e-9', '1'].map((json) => codeOf(share, json))).to.deep.equal(
      Array(3).fill('invalid_attribute'),
    );
    expect(codeOf({ name: 'a', type: 'number', min: 3 }, '2.9')).to.equal('invalid_attribute');
    expect(codeOf({ name: 'a', type: 'integer', max: -3 }, '-2')).to.equal('invalid_attribute');

    const grade: Attribute = { name: 'a', type: 'string', enum: ['A', 'é', '"', 'a/b', ''] };
    for (const json of ['"A"', '"\\u0041"', '"é"', '"\\u00e9"', '"\\""', '"a\\/b"', '""'])
      expect(codeOf(grade, json), json).to.equal(undefined);
    for (const json of ['"B"', '"a"', '"A "', '"AA"', 'null ,"b":1', '1'])
      expect(codeOf(grade, json), json).to.equal(json.startsWith('null') ? undefined : 'invalid_attribute');
    const level: Attribute = { name: 'a', type: 'number', enum: [0, 0.1, 2] };
    for (const json of ['0', '-0.0', '0.1', '1e-1', '2.0'])
      expect(codeOf(level, json), json).to.equal(undefined);
    for (const json of ['0.2', '1', '-2']) expect(codeOf(level, json), json).to.equal('invalid_attribute');
  });

  it('are found in any order, with escapes in their keys, beside keys that the contract does not declare', () => {
    const names = ['decile', 'version', 'Größe', 'a "b"', 'a'];
    const attributes = names.map((name): Attribute => ({ name, type: 'integer', required: true }));
    const escaped = (text: string) =>
      `"${[...text].map((it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, '0')}`).join('')}"`;
    const orders = [names, [...names].reverse(), [...names.slice(2), ...names.slice(0, 2)]];
    const lines = orders.flatMap((order) =>
      [JSON.stringify, escaped].map(
        (write) =>
          `{"other":"x","pk":"1",${order.map((name) => `${write(name)} : 7`).join(', ')},"score":1,"last":[]}`,
      ),
    );
    const { rejects, counts } = scan(attributes, ...lines);
    expect(rejects).to.deep.equal([]);
    expect(counts.rows).to.equal(lines.length);
    for (const [index, name] of names.entries()) {
      const wrong = lines.map((line) => {
        const parts = line.split(': 7');
        return `${parts.slice(0, index + 1).join(': 7')}: "x"${parts.slice(index + 1).join(': 7')}`;
      });
      expect(
        scan(attributes, ...wrong).rejects.map(({ code }) => code),
        name,
      ).to.deep.equal(wrong.map(() => 'invalid_attribute'));
    }
  });

  it('say what is wrong, what was found, what is allowed, and where', () => {
    const attributes: Attribute[] = [
      { name: 'decile', type: 'integer', required: true, min: 1, max: 10 },
      { name: 'grade', type: 'string', enum: ['A', 'B'] },
    ];
    const { rejects, counts } = scan(
      attributes,
      '{"pk":"1","score":1,"decile":11}',
      '{"pk":"2","score":2}',
      '{"pk":"3","score":3,"decile":"4"}',
      '{"pk":"4","score":4,"decile":4,"grade":"C"}',
      '{"pk":"5","score":5,"Decile":4}',
      '{"pk":"6","score":6,"decile":6,"grade":null}',
    );
    expect(counts).to.deep.include({ lines: 6, rejected: 5, rows: 1 });
    expect(
      rejects.map(({ line, byteOffset, code, detail }) => [line, byteOffset, code, detail]),
    ).to.deep.equal([
      [
        1,
        29,
        'invalid_attribute',
        'The attribute "decile" must be an integer from 1 to 10; found 11. Correct the value or leave out the line; if the value is right, change the contract.',
      ],
      [
        2,
        33,
        'missing_attribute',
        'The attribute "decile" is required by the contract of the model; the line does not have it. Write an integer from 1 to 10, or leave out the line.',
      ],
      [
        3,
        83,
        'invalid_attribute',
        'The attribute "decile" must be an integer from 1 to 10; found "4". Write the number without quotes.',
      ],
      [
        4,
        127,
        'invalid_attribute',
        'The attribute "grade" must be one of "A", "B"; found "C". Correct the value or leave out the line; if the value is right, change the contract.',
      ],
      [
        5,
        132,
        'missing_attribute',
        'The attribute "decile" is required by the contract of the model; keys are case-sensitive, and the line has "Decile". Write an integer from 1 to 10, or leave out the line.',
      ],
    ]);
  });

  it('are checked last: other faults of a line keep their codes', () => {
    const attributes: Attribute[] = [{ name: 'a', type: 'integer', required: true }];
    const { rejects } = scanFile(
      '{"score":1,"a":"x"}\n{"pk":"1","a":"x","a":1,"score":1}\n{"pk":"2","score":"x"}\n{"pk":"3","score":1,"a":"x"',
      () => 7,
      undefined,
      attributes,
    );
    expect(rejects.map(({ code }) => code)).to.deep.equal([
      'missing_pk',
      'duplicate_attribute',
      'invalid_score',
      'cut_off',
    ]);
  });

  it('leave rows as they are without a contract, on the fast path too', () => {
    const file = '{"pk":"1","score":1}\n{"pk":"2","score":2,"a":1}\n{"score":3,"pk":"3"}\n';
    const optional: Attribute[] = [{ name: 'a', type: 'integer' }];
    const withContract = scanFile(file, undefined, undefined, optional);
    expect(withContract.output).to.deep.equal(scanFile(file).output);
    expect(readCopyBinary(withContract.output)).to.have.length(3);
  });

  it('are refused in a contract when they contradict themselves, or cannot be columns', () => {
    const faultOf = (...attributes: unknown[]) =>
      contract.safeParse({ attributes }).error?.issues[0]?.message;
    expect(faultOf({ name: 'a', type: 'string' }, { name: 'b', type: 'boolean', required: true })).to.equal(
      undefined,
    );
    expect(faultOf({ name: 'ç "quoted"; DROP', type: 'integer', enum: [1] })).to.equal(undefined);
    for (const wrong of [
      { name: '', type: 'string' },
      { name: 'a\nb', type: 'string' },
      { name: '\ud800', type: 'string' },
      { name: 'é'.repeat(32), type: 'string' },
      ...['pk', 'score', 'attributes', 'run', 'as_of', 'published_at'].map((name) => ({
        name,
        type: 'string',
      })),
      { name: 'a', type: 'text' },
      { name: 'a' },
      { name: 'a', type: 'string', min: 1 },
      { name: 'a', type: 'boolean', enum: [true] },
      { name: 'a', type: 'integer', min: 1.5 },
      { name: 'a', type: 'integer', min: 2, max: 1 },
      { name: 'a', type: 'number', enum: [] },
      { name: 'a', type: 'number', enum: ['1'] },
      { name: 'a', type: 'string', enum: ['x', 'x'] },
      { name: 'a', type: 'string', requierd: true },
    ])
      expect(faultOf(wrong), JSON.stringify(wrong)).to.be.a('string');
    expect(faultOf({ name: 'a', type: 'string' }, { name: 'a', type: 'number' })).to.contain(
      'each name must occur once',
    );
  });
});
