import { readdir } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import {
  declare,
  getRun,
  listFiles,
  manifestOf,
  patch,
  type RequestOptions,
  runPath,
  scoreLines,
  startSystem,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const base64 = (value: string | Buffer) => Buffer.from(value).toString('base64');

describe('a hostile request', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem({ maxUploadBytes: 1024 ** 3 });
  });
  after(() => system.stop());
  afterEach(async () => {
    expect((await system.request('GET', '/readyz', { token: null })).status, 'the service lives').to.equal(
      200,
    );
  });

  const file = { name: 'a.jsonl', content: scoreLines(3) };
  const manifest = manifestOf([file]);

  async function statusOf(method: string, path: string, options: RequestOptions = {}): Promise<number> {
    const answer = await system.request(method, path, options);
    const text = await answer.text();
    if (answer.status >= 500)
      throw new Error(`${method} ${path.slice(0, 100)} answered ${answer.status}: ${text}`);
    if (answer.status >= 400 && text !== '')
      expect(JSON.parse(text), path).to.include({ status: answer.status });
    return answer.status;
  }

  const post = (headers: Record<string, string>, body?: string) =>
    statusOf('POST', '/v1/uploads', {
      headers: { 'tus-resumable': '1.0.0', ...headers },
      ...(body === undefined ? {} : { body }),
    });
  const metadata = (model: string, run: string, name: string | Buffer) =>
    `model ${base64(model)},run ${base64(run)},filename ${base64(name)}`;

  describe('for an upload', () => {
    it('finds nothing under an id that climbs, is cut, padded or not one of ours: 404', async () => {
      const declared = await declare(system, 'churn', 'ids', [file]);
      const id = declared.missing.files[0]?.uploadUrl.split('/').at(-1) ?? '';
      const ids = [
        '%2e%2e',
        '%2e%2e%2f%2e%2e%2fetc%2fpasswd',
        '..%5c..%5cetc',
        `${id}%00`,
        `${id}%0a`,
        `%2f${id}`,
        `${id}.json`,
        id.toUpperCase().padEnd(33, '0'),
        id.slice(1),
        `${id}%20`,
        '%00',
        `'%20OR%201=1--`,
        'x'.repeat(8_000),
      ];
      for (const method of ['HEAD', 'PATCH', 'DELETE'])
        for (const strange of ids)
          expect(
            await statusOf(method, `/v1/uploads/${strange}`, {
              headers: {
                'tus-resumable': '1.0.0',
                'upload-offset': '0',
                'content-type': 'application/offset+octet-stream',
              },
            }),
            `${method} ${strange.slice(0, 60)}`,
          ).to.equal(404);
      expect(await statusOf('HEAD', '/v1/uploads/%ff'), 'an id that is no UTF-8').to.equal(400);
      expect((await getRun(system, 'churn', 'ids')).state).to.equal('receiving');
    });

    it('makes none of a name or run key that climbs or cannot be printed: 400', async () => {
      for (const name of [
        '..',
        '.',
        '../a',
        'a/b',
        'a\\b',
        '/etc/passwd',
        'a\0',
        'a\n',
        '\u202ea',
        '',
        'x'.repeat(256),
      ])
        expect(
          await post({ 'upload-length': '3', 'upload-metadata': metadata('churn', 'r', name) }),
          JSON.stringify(name),
        ).to.equal(400);
      for (const run of ['', '.', '..', '\0', 'a\tb', 'x'.repeat(201)])
        expect(
          await post({ 'upload-length': '3', 'upload-metadata': metadata('churn', run, 'a') }),
          JSON.stringify(run),
        ).to.equal(400);
      for (const model of ['', '../x', 'Churn', 'a"b', "a'; DROP SCHEMA ingest CASCADE; --", 'x'.repeat(49)])
        expect(
          await post({ 'upload-length': '3', 'upload-metadata': metadata(model, 'r', 'a') }),
          model,
        ).to.equal(400);
    });

    it('makes none of metadata that is doubled, torn, not UTF-8 or not base64: 400', async () => {
      const good = metadata('churn', 'r', 'a');
      const bad = [
        `${good},model ${base64('other')}`,
        `${good},`,
        `${good},x ${base64(Buffer.from([0xff, 0xfe]))}`,
        metadata('churn', 'r', Buffer.from([0x61, 0xc3])),
        `${good},x ${base64('nul\0')}`,
        'model !!!,run x,filename y',
        'model',
        `${good},constructor ${base64('x')}`,
      ];
      for (const header of bad)
        expect(await post({ 'upload-length': '3', 'upload-metadata': header }), header).to.equal(400);
      expect(await post({ 'upload-length': '3' }), 'none at all').to.equal(400);
    });

    it('takes no length that is negative, no integer, or more than a file may have', async () => {
      const lengths: [string, number][] = [
        ['-1', 400],
        ['1e9', 400],
        ['0x10', 400],
        ['1.5', 400],
        ['', 400],
        ['NaN', 400],
        ['9007199254740993', 400],
        [String(2 ** 53 - 1), 413],
        [String(1024 ** 3 + 1), 413],
      ];
      for (const [length, status] of lengths)
        expect(
          await post({ 'upload-length': length, 'upload-metadata': metadata('churn', 'r', 'a') }),
          length,
        ).to.equal(status);
      expect(
        await post({ 'upload-defer-length': '1', 'upload-metadata': metadata('churn', 'r', 'a') }),
      ).to.equal(400);
      expect(
        await post({
          'upload-concat': 'final;/v1/uploads/a',
          'upload-metadata': metadata('churn', 'r', 'a'),
        }),
      ).to.equal(400);
    });

    it('moves no offset by an offset that is negative, in the future or not a number', async () => {
      const declared = await declare(system, 'churn', 'offsets', [file]);
      const url = declared.missing.files[0]?.uploadUrl ?? '';
      const offsets: [string, number][] = [
        ['-1', 400],
        ['1e0', 400],
        ['999999', 409],
        [String(2 ** 53), 409],
        ['x', 400],
      ];
      for (const [offset, status] of offsets) {
        const answer = await system.request('PATCH', url, {
          body: 'x',
          headers: {
            'tus-resumable': '1.0.0',
            'upload-offset': offset,
            'content-type': 'application/offset+octet-stream',
          },
        });
        expect(answer.status, offset).to.equal(status);
      }
      expect((await getRun(system, 'churn', 'offsets')).bytes.received).to.equal(0);
    });

    it('overrides no method, and believes no X-Forwarded-* header', async () => {
      const declared = await declare(system, 'churn', 'override', [file]);
      const url = declared.missing.files[0]?.uploadUrl ?? '';
      const answer = await system.request('HEAD', url, {
        headers: { 'tus-resumable': '1.0.0', 'x-http-method-override': 'DELETE' },
      });
      expect(answer.status).to.equal(200);
      const made = await system.request('POST', '/v1/uploads', {
        headers: {
          'tus-resumable': '1.0.0',
          'upload-length': '3',
          'upload-metadata': metadata('churn', 'forwarded', 'a'),
          'x-forwarded-host': 'evil.example',
          'x-forwarded-proto': 'https',
          forwarded: 'host=evil.example;proto=https',
        },
      });
      expect(made.status).to.equal(201);
      expect(made.headers.get('location')).to.match(/^uploads\/[0-9a-f]{32}$/);
    });

    it('takes no body in a coding that it does not know: 415 that says what it takes, and nothing is kept', async () => {
      const bomb = gzipSync(Buffer.alloc(20 * 1024 ** 2));
      const declared = await declare(system, 'churn', 'bomb', [{ name: 'a.jsonl', content: bomb }]);
      const url = declared.missing.files[0]?.uploadUrl ?? '';
      for (const coding of ['deflate', 'br', 'GZIP, gzip', 'gzip, identity', 'nonsense']) {
        for (const [method, path] of [
          ['PATCH', url],
          ['POST', '/v1/uploads'],
        ] as const) {
          const sent = await system.request(method, path, {
            body: new Uint8Array(bomb),
            headers: {
              'tus-resumable': '1.0.0',
              'content-type': 'application/offset+octet-stream',
              'content-encoding': coding,
              ...(method === 'PATCH'
                ? { 'upload-offset': '0' }
                : {
                    'upload-length': String(bomb.length),
                    'upload-metadata': metadata('churn', 'coded', 'a'),
                  }),
            },
          });
          expect(sent.status, `${method} ${coding}`).to.equal(415);
          expect(sent.headers.get('accept-encoding')).to.equal('zstd, gzip');
        }
      }
      expect((await getRun(system, 'churn', 'bomb')).missing.files[0]?.offset).to.equal(0);
      expect(await statusOf('GET', runPath('churn', 'coded'))).to.equal(404);
    });

    it('makes no file but those with our own names', async () => {
      const names = await readdir(system.dataDir, { recursive: true });
      const strange = names.filter((name) => !/^[a-z0-9._/-]*$/.test(name));
      expect(strange).to.deep.equal([]);
      expect(names.some((name) => name.includes('passwd'))).to.equal(false);
    });
  });

  describe('with JSON', () => {
    const put = (json: unknown) => statusOf('PUT', runPath('churn', 'json'), { json });
    const putText = (body: string, headers: Record<string, string> = {}) =>
      statusOf('PUT', runPath('churn', 'json'), {
        body,
        headers: { 'content-type': 'application/json', ...headers },
      });

    it('is answered with 400 when it is nested without end, 413 when it is larger than 32 MiB', async () => {
      const deep = `${'['.repeat(500_000)}${']'.repeat(500_000)}`;
      expect(await putText(deep)).to.equal(400);
      expect(await putText(`{"files":${deep}}`)).to.equal(400);
      expect(await putText(`{"files":${JSON.stringify(manifest.files)},"source":{"a":${deep}}}`)).to.equal(
        400,
      );
      expect(await putText(`{"files":"${'x'.repeat(33 * 1024 ** 2)}"}`)).to.equal(413);
    });

    it('is not unpacked: 415 for a compressed body, which says what is taken', async () => {
      const answer = await system.request('PUT', runPath('churn', 'json'), {
        body: new Uint8Array(gzipSync(JSON.stringify(manifest))),
        headers: { 'content-type': 'application/json', 'content-encoding': 'gzip' },
      });
      expect(answer.status).to.equal(415);
      expect(answer.headers.get('accept-encoding')).to.equal('identity');
    });

    it('is answered with 400 for what PostgreSQL could not keep: NUL, lone surrogates, too much, too many', async () => {
      const sources = [
        { a: 'nul\0' },
        { 'nul\0': 1 },
        { a: '\ud800' },
        { a: 'x'.repeat(17_000) },
        { ['k'.repeat(101)]: 1 },
      ];
      for (const source of sources)
        expect(await put({ ...manifest, source }), JSON.stringify(source).slice(0, 80)).to.equal(400);
      const [one] = manifest.files;
      expect(
        await put({ files: Array.from({ length: 100_001 }, (_, i) => ({ ...one, name: `f${i}` })) }),
      ).to.equal(400);
      expect(await put({ files: [{ ...one, bytes: 2 ** 53 }] })).to.equal(400);
      expect(await put({ files: [{ ...one, bytes: 2 ** 53 - 1 }] })).to.equal(413);
      expect(await put({ ...manifest, as_of: '+275760-09-13T00:00:00.001Z' })).to.equal(400);
    });

    it('pollutes no prototype', async () => {
      const polluted = `{"files":${JSON.stringify(manifest.files)},"source":{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}}`;
      expect(await putText(polluted)).to.be.oneOf([200, 201]);
      expect(
        await putText(`{"__proto__":{"files":[]},"files":${JSON.stringify(manifest.files)}}`),
      ).to.be.oneOf([200, 201, 400]);
      expect(({} as { polluted?: number }).polluted).to.equal(undefined);
    });
  });

  describe('with SQL or HTML in every field', () => {
    const STRINGS = [
      `'; DROP SCHEMA ingest CASCADE; --`,
      `" OR ""="`,
      `\\'; SELECT pg_sleep(10); --`,
      '$1 $$ :model %s',
      `<script>alert(1)</script>`,
      `"><img src=x onerror=alert(1)>`,
      `{{constructor.constructor('alert(1)')()}}`,
    ];

    it('keeps it as the text it is, and answers JSON that no browser takes for a page', async () => {
      for (const [index, text] of STRINGS.entries()) {
        const content = scoreLines(3, index + 1); // its own: what is there already is not sent again
        const name = `${text.replaceAll(/[/\\]/g, '')}.jsonl`;
        const sent = await declare(system, 'churn', text, [{ name, content }], {
          source: { [text.slice(0, 50)]: text },
        });
        const url = sent.missing.files[0]?.uploadUrl ?? '';
        expect((await patch(system, url, 0, Buffer.from(content))).status).to.equal(204);
        const answer = await system.request('GET', runPath('churn', text));
        expect(answer.headers.get('content-type')).to.match(/^application\/json/);
        expect(answer.headers.get('x-content-type-options')).to.equal('nosniff');
        expect(answer.headers.get('content-security-policy')).to.contain("default-src 'none'");
        const run = (await answer.json()) as { run: string; source: unknown };
        expect(run).to.deep.include({ run: text, source: { [text.slice(0, 50)]: text } });
        expect((await listFiles(system, 'churn', text))[0]?.name).to.equal(name);
      }
      const loader = system.startLoader();
      for (const text of STRINGS)
        expect((await untilFinal(system, 'churn', text, 30_000)).state).to.be.oneOf([
          'published',
          'superseded',
        ]);
      await loader.stop();
    });

    it('is echoed in no error as anything but JSON', async () => {
      for (const text of STRINGS) {
        for (const path of [
          `/${encodeURIComponent(text)}`,
          `/v1/models/${encodeURIComponent(text)}/runs/x`,
          `/v1/runs?model=${encodeURIComponent(text)}&state=${encodeURIComponent(text)}&cursor=${encodeURIComponent(text)}`,
        ]) {
          const answer = await system.request('GET', path);
          expect(answer.status, path).to.be.oneOf([400, 404]);
          expect(answer.headers.get('content-type'), path).to.match(/^application\/problem\+json/);
        }
      }
    });
  });
});
