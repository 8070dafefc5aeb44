import { expect } from 'chai';
import { requireDocumented } from './support/documented-problems.ts';
import {
  declare,
  pushRun,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

/** Of JSON Schema what this service's document uses. */
interface Schema {
  readonly type?: string;
  readonly format?: string;
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly additionalProperties?: Schema | boolean;
}

interface Described {
  readonly summary: string;
  readonly parameters: readonly {
    readonly name: string;
    readonly in: 'path' | 'query' | 'header';
    readonly example?: string;
    readonly schema: Schema;
  }[];
  readonly requestBody?: {
    readonly content: Readonly<Record<string, { readonly schema: Schema; readonly example?: unknown }>>;
  };
  readonly responses: Readonly<Record<string, unknown>>;
}

/** A value to put at a place, as JSON text where it goes into a body and as it is elsewhere. */
type Value = { readonly json: string; readonly text: string };

const value = (it: unknown): Value => ({ json: JSON.stringify(it), text: String(it) });
const number = (text: string): Value => ({ json: text, text });

/** At and beyond what int2, int4, int8, double precision and JavaScript's safe integers can hold. */
const NUMBERS = [
  '-9223372036854775809',
  '-9223372036854775808',
  '-9007199254740992',
  '-2147483649',
  '-2147483648',
  '-1',
  '-0',
  '0',
  '1',
  '32767',
  '32768',
  '2147483647',
  '2147483648',
  '4294967296',
  '9007199254740991',
  '9007199254740992',
  '9223372036854775807',
  '9223372036854775808',
  '1e15',
  '1e308',
  '-1e308',
  '1e400',
  '5e-324',
  '0.5',
];

const BEYOND_INTEGERS = ['-1', '2147483648', 'r2147483648', '"2147483648"', '9223372036854775808', '1e400'];

const DATES = [
  '-000001-01-01T00:00:00Z',
  '0000-01-01T00:00:00Z',
  '0000-12-31T23:59:59-01:00',
  '0001-01-01T00:00:00Z',
  '0001-01-01T00:00:00+14:00',
  '1900-02-29T00:00:00Z',
  '1970-01-01T00:00:00.123456789Z',
  '2026-02-30T00:00:00Z',
  '2026-11-01T24:00:00Z',
  '2026-11-01T23:59:60Z',
  '2026-11-01T00:00:00+24:00',
  '9999-12-31T23:59:59Z',
  '9999-12-31T23:59:59-14:00',
  '10000-01-01T00:00:00Z',
  '+275760-09-13T00:00:00Z',
  '294277-01-01T00:00:00Z',
  ...[-1, 0, 364, 367, 3_660].map((days) => new Date(Date.now() + days * 86_400_000).toISOString()),
];

function stringsOf({ minLength = 0, maxLength = 200 }: Schema): string[] {
  const lengths = [minLength - 1, minLength, maxLength, maxLength + 1, 2_000].filter((length) => length >= 0);
  const texts = lengths.flatMap((length) => ['x'.repeat(length), 'é'.repeat(length), '😀'.repeat(length)]);
  return [...texts, '\0', 'a\0b', '\ud800', '\u202e', "'", '%', '\\', 'null', '__proto__', ' '];
}

function valuesOf(schema: Schema): Value[] {
  const { type, format } = schema;
  const bounds = [schema.minimum, schema.maximum, schema.exclusiveMinimum].flatMap((bound) =>
    bound === undefined ? [] : [bound - 1, bound, bound + 1].map(String),
  );
  const numbers = [...NUMBERS, ...bounds].map(number);
  if (type === 'integer' || type === 'number') return [...numbers, value('1'), value(null), value([])];
  if (format === 'date-time') return [...DATES.map(value), value(0), value('yesterday')];
  if (type === 'boolean') return [value(true), value(0), value('true'), value(null)];
  const texts = [...stringsOf(schema), ...(schema.enum ?? []), ...BEYOND_INTEGERS, '9999-12-31T23:59:59Z'];
  return [...texts.map(value), value(null), value({}), value([[]])];
}

/** Every place in a body that is no object of known properties, as the keys that lead to it. */
function* placesOf(schema: Schema, at: readonly (string | number)[] = []): Generator<[typeof at, Schema]> {
  if (at.length > 0) yield [at, schema];
  for (const [name, property] of Object.entries(schema.properties ?? {}))
    yield* placesOf(property, [...at, name]);
  if (schema.items !== undefined) yield* placesOf(schema.items, [...at, 0]);
  if (typeof schema.additionalProperties === 'object')
    yield* placesOf(schema.additionalProperties, [...at, 'any']);
}

/** The example's text with one value in the place of another; a marker keeps numbers that JavaScript cannot write. */
function bodyWith(example: unknown, place: readonly (string | number)[], { json }: Value): string {
  const body = structuredClone(example ?? {}) as Record<string | number, unknown>;
  let parent = body;
  for (const key of place.slice(0, -1)) {
    parent[key] ??= {};
    parent = parent[key] as Record<string | number, unknown>;
  }
  parent[place.at(-1) ?? ''] = 'THE PLACE';
  return JSON.stringify(body).replace('"THE PLACE"', () => json);
}

describe('every number, date and text that a request can carry, at its bounds and beyond', () => {
  let system: TestSystem;
  let token: string;
  let uploadId: string;
  let paths: Readonly<Record<string, Readonly<Record<string, Described>>>>;
  before(async () => {
    system = await startSystem();
    token = await system.createToken({ name: 'all', scopes: ['push', 'read', 'operate'] });
    paths = ((await (await system.request('GET', '/openapi.json')).json()) as { paths: typeof paths }).paths;
    const loader = system.startLoader();
    await pushRun(system, 'demo', '2026-11', [{ name: 'a.jsonl', content: scoreLines(3) }]);
    await pushRun(system, 'demo', '2026-10', [{ name: 'a.jsonl', content: '{"pk":"1"}\n' }]);
    for (const run of ['2026-10', '2026-11']) await untilFinal(system, 'demo', run, 60_000);
    await loader.stop();
    const waiting = await declare(system, 'demo', '2026-12', [{ name: 'a.jsonl', content: scoreLines(9) }]);
    uploadId = waiting.missing.files[0]?.uploadUrl.split('/').at(-1) ?? '';
  });
  after(() => system.stop());

  it('is answered by a status that the OpenAPI document has for the route, and never by 500', async () => {
    const faults = new Map<string, string>(); // one of a kind
    let asked = 0;
    const ask = async (name: string, described: Described, request: Request) => {
      asked += 1;
      const answer = await requireDocumented(request.method, await fetch(request));
      const isStream = answer.headers.get('content-type')?.startsWith('text/event-stream') === true;
      const text = isStream ? '' : await answer.text();
      if (isStream) await answer.body?.cancel();
      if (answer.status === 500 || described.responses[answer.status] === undefined)
        faults.set(
          `${described.summary}: ${answer.status}`,
          `${name}: ${answer.status} ${text.slice(0, 300)}`,
        );
    };
    const work: (() => Promise<void>)[] = [];
    for (const [path, methods] of Object.entries(paths)) {
      for (const [method, described] of Object.entries(methods)) {
        const [mediaType, content] = Object.entries(described.requestBody?.content ?? {})[0] ?? [];
        /** The example with some parameters, or the body, replaced; undefined when no HTTP client could send it. */
        const request = (
          parameters: Readonly<Record<string, string>>,
          body?: string,
        ): Request | undefined => {
          const query = new URLSearchParams();
          const headers = new Headers({ authorization: `Bearer ${token}` });
          if (mediaType !== undefined) headers.set('content-type', mediaType);
          let address = path;
          try {
            for (const { name, in: place, example = '' } of described.parameters) {
              const given = parameters[name] ?? (name === 'id' ? uploadId : example);
              if (place === 'path') address = address.replace(`{${name}}`, encodeURIComponent(given));
              else if (given === '') continue;
              else if (place === 'query') query.set(name, given);
              else headers.set(name, given);
            }
          } catch {
            return undefined; // a lone surrogate in an address, NUL in a header
          }
          const example = content?.example;
          const text = body ?? (typeof example === 'string' ? example : JSON.stringify(example));
          return new Request(new URL(query.size === 0 ? address : `${address}?${query}`, system.url), {
            method: method.toUpperCase(),
            headers,
            ...(text === undefined ? {} : { body: text }),
          });
        };
        const add = (what: string, made: Request | undefined) => {
          if (made !== undefined) work.push(() => ask(`${method} ${path}, ${what}`, described, made));
        };
        for (const { name, schema } of described.parameters)
          for (const { text } of valuesOf(schema))
            add(`${name} = ${JSON.stringify(text.slice(0, 60))}`, request({ [name]: text }));
        if (mediaType !== 'application/json') continue;
        for (const [place, schema] of placesOf(content?.schema ?? {}))
          for (const it of valuesOf(schema))
            add(
              `${place.join('.')} = ${it.json.slice(0, 60)}`,
              request({}, bodyWith(content?.example, place, it)),
            );
      }
    }
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let next = work.pop(); next !== undefined; next = work.pop()) await next();
      }),
    );
    console.log(`      ${asked} requests`);
    expect([...faults.values()].join('\n')).to.equal('');
    expect(asked).to.be.greaterThan(1_500);
  });

  it('can be read again, whatever of it was taken', async () => {
    const { runs } = (await (await system.request('GET', '/v1/runs?limit=1000')).json()) as {
      runs: { model: string; run: string }[];
    };
    expect(runs.length).to.be.greaterThan(20);
    for (const { model, run } of runs) {
      for (const view of ['', '/history'])
        expect(
          (await system.request('GET', `${runPath(model, run)}${view}`)).status,
          `${model} ${run}`,
        ).to.equal(200);
    }
    for (const path of ['/v1/status', '/v1/models', '/metrics'])
      expect((await system.request('GET', path)).status, path).to.equal(200);
  });
});
