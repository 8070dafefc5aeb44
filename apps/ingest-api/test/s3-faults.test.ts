import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdir, readFile, utimes } from 'node:fs/promises';
import { type IncomingHttpHeaders, request as sendRequest } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { inspect } from 'node:util';
import { expect } from 'chai';
import { openDatabase } from 'db-schema';
import { type RunningS3, testS3 } from 'local-s3';
import { type Fault, type FaultProxy, startFaultProxy, type Verb } from '../../../e2e/support/proxies.ts';
import { seededRandom, testSeed } from '../../../e2e/support/score-file.ts';
import { describeError, IngestError } from '../src/errors.ts';
import { removeOrphans } from '../src/runs/expiry.ts';
import type { BucketLocation } from '../src/store/open.ts';
import { s3Store } from '../src/store/s3.ts';
import { BytesMissing, type Segment, type Store, type StoredUpload } from '../src/store/store.ts';
import { makeCertificates } from './support/certificates.ts';
import { eventually, pushRun, scoreLines, startSystem, untilFinal } from './support/system.ts';

const TIMING = { connectsWithinMs: 500, answersWithinMs: 400, callEndsWithinMs: 1_000, againAfterMs: 2 };
const UPLOAD_BYTES = 200_000;
const FIRST_PART_BYTES = 50_000;
const MARKER = { storeId: 'the one behind the proxy', generation: 1 };

/** What a store sends for each of its operations. */
const VERBS = { write: 'PUT', read: 'GET', durableBytes: 'HEAD', remove: 'POST' } as const;
type Operation = keyof typeof VERBS;
const OPERATIONS = Object.keys(VERBS) as Operation[];
const OF_AN_OBJECT = /\/uploads\/|\?delete/;

function refusal(status: number, code: string): Fault {
  return {
    do: 'answer',
    status,
    headers: { 'content-type': 'application/xml' },
    body: `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>No.</Message></Error>`,
  };
}

const OLD_ANSWER = refusal(404, 'NoSuchKey');

/** The faults that an operation can meet. `atByte` is a place in the body of its request or its answer. */
function faultsOf(operation: Operation, atByte: number): Record<string, Fault> {
  return {
    'a 403': refusal(403, 'AccessDenied'),
    'a 403 for the clock': refusal(403, 'RequestTimeTooSkewed'),
    'a 404 of a gateway': { do: 'answer', status: 404 },
    'a 404 of the bucket': refusal(404, 'NoSuchBucket'),
    'an old answer': OLD_ANSWER,
    'a 429': refusal(429, 'TooManyRequests'),
    'a 500': refusal(500, 'InternalError'),
    'a 502 of a gateway': { do: 'answer', status: 502 },
    'a 503': refusal(503, 'ServiceUnavailable'),
    'a SlowDown': refusal(503, 'SlowDown'),
    'a page with status 200': { do: 'answer', status: 200 },
    'a cut': { do: 'reset' },
    'a lost answer': { do: 'lose_answer' },
    'a hang': { do: 'fall_silent', afterBytes: 0 },
    ...(operation === 'write' && {
      'a cut in mid body': { do: 'cut_body', afterBytes: atByte },
      'a spoiled body': { do: 'spoil_body' },
    }),
    ...(operation === 'read' && {
      'a cut in mid body': { do: 'cut_answer', afterBytes: atByte },
      'a hang in mid body': { do: 'stall_answer', afterBytes: atByte },
      'a spoiled body': { do: 'spoil_answer' },
    }),
    ...(operation === 'durableBytes' && {
      'a wrong length': { do: 'answer', status: 200, headers: { 'content-length': '3' } },
    }),
    ...(operation === 'remove' && { 'a spoiled body': { do: 'spoil_body' } }),
  };
}

describe('a bucket that fails', () => {
  let s3: RunningS3;
  let proxy: FaultProxy;
  let location: BucketLocation;
  /** Behind the proxy. */
  let store: Store;
  /** The same store, without a fault. */
  let sound: Store;
  let random: () => number;
  const seen: unknown[] = [];

  before(async function () {
    const started = await testS3();
    if (started === undefined) return this.skip();
    s3 = started;
    random = seededRandom(testSeed());
    proxy = await startFaultProxy(Number(new URL(s3.endpoint).port));
    const direct = s3.newLocation();
    location = { ...direct, endpoint: proxy.url };
    store = s3Store(location, TIMING);
    sound = s3Store(direct, TIMING);
    await sound.writeMarker(MARKER);
    for (const each of [store, sound]) each.expectMarker(MARKER);
  });
  afterEach(() => proxy?.plan([]));
  after(() => proxy?.stop());

  /** An upload of two parts, whose second one an operation works on while the server fails. */
  class Upload implements StoredUpload {
    readonly uploadId = randomBytes(16).toString('hex');
    readonly fileName = this.uploadId;
    readonly content: Buffer;
    segments: readonly Segment[] = [];
    offsetBytes = 0;

    constructor(sizeBytes = UPLOAD_BYTES) {
      this.content = randomBytes(sizeBytes);
    }

    async send(to: Store, toByte = UPLOAD_BYTES): Promise<void> {
      const { uploadId, fileName, offsetBytes } = this;
      await to.write({
        upload: { uploadId, fileName, offsetBytes, sizeBytes: UPLOAD_BYTES, createdAt: new Date() },
        offsetBytes,
        pieces: (async function* (bytes) {
          yield [Buffer.from(bytes)];
        })(this.content.subarray(offsetBytes, toByte)),
        mayWrite: async () => {},
        onDurable: async (durableBytes, segment) => {
          this.offsetBytes = durableBytes;
          if (segment !== undefined) this.segments = [...this.segments, segment];
        },
      });
    }

    async expectWhole(): Promise<void> {
      const hash = createHash('sha256');
      for await (const chunk of sound.read(this)) hash.update(chunk);
      expect(hash.digest('hex')).to.equal(createHash('sha256').update(this.content).digest('hex'));
    }
  }

  async function uploadFor(operation: Operation): Promise<Upload> {
    const upload = new Upload();
    await upload.send(sound, FIRST_PART_BYTES);
    if (operation !== 'write') await upload.send(sound);
    return upload;
  }

  /** @returns whether the upload is then what the operation makes of it. */
  async function perform(operation: Operation, upload: Upload): Promise<boolean> {
    switch (operation) {
      case 'write':
        await upload.send(store);
        return upload.offsetBytes === UPLOAD_BYTES;
      case 'read': {
        let bytes = 0;
        for await (const chunk of store.read(upload)) bytes += chunk.byteLength;
        return bytes === UPLOAD_BYTES;
      }
      case 'durableBytes':
        return (await store.durableBytes(upload)) === UPLOAD_BYTES;
      case 'remove':
        await store.remove([upload]);
        return (await objectsOf(location, upload.uploadId)).length === 0;
    }
  }

  /** Each object is a file of the server. */
  async function objectsOf({ prefix }: BucketLocation, uploadId = ''): Promise<string[]> {
    const folder = path.join(s3.bucketDir, prefix, 'uploads', uploadId);
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
    return entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
  }

  const fail = (on: Verb, fault: Fault, times: number, path: RegExp = OF_AN_OBJECT) =>
    proxy.plan([{ on, fault, times, path }]);

  for (const operation of OPERATIONS) {
    it(`once, in any way, at ${VERBS[operation]}, is asked again, and nobody sees it`, async () => {
      const faults = faultsOf(operation, 1 + Math.floor(random() * FIRST_PART_BYTES));
      for (const [name, fault] of Object.entries(faults)) {
        const upload = await uploadFor(operation);
        fail(VERBS[operation], fault, 1);
        const isDone = await perform(operation, upload).catch((error: Error) => error);
        expect(isDone, name).to.equal(true);
        expect(proxy.remaining(), name).to.deep.equal([]);
        if (operation !== 'remove') await upload.expectWhole();
      }
    });

    it(`at every ${VERBS[operation]}, in any way, is a fault that says nothing about the bytes; later all is well`, async () => {
      const faults = faultsOf(operation, 1 + Math.floor(random() * FIRST_PART_BYTES));
      for (const [name, fault] of Object.entries(faults)) {
        if (operation === 'read' && fault === OLD_ANSWER) continue; // then it is gone: see below
        const isAskedByGet = operation === 'durableBytes' && fault.do === 'answer' && fault.status === 404;
        const upload = await uploadFor(operation);
        const { offsetBytes } = upload;
        fail(VERBS[operation], fault, Number.POSITIVE_INFINITY);
        const outcome = await perform(operation, upload).catch((error: unknown) => error);
        if (isAskedByGet) expect(outcome, name).to.equal(true);
        else {
          expect(outcome, name).to.be.instanceOf(IngestError);
          expect(outcome, name).to.include({ code: 'storage_fault', retryAfterSeconds: 10 });
          seen.push(outcome);
        }
        expect(upload.offsetBytes, `${name}: acknowledged`).to.equal(offsetBytes);
        proxy.plan([]);
        expect(await perform(operation, upload), `${name}: after its end`).to.equal(true);
        if (operation !== 'remove') await upload.expectWhole();
      }
    });
  }

  it('has lost an object only if it says so each time, in words, and can still show its marker', async () => {
    const upload = new Upload();
    await upload.send(sound); // one object: all answers are about it
    fail('GET', OLD_ANSWER, Number.POSITIVE_INFINITY);
    expect(await perform('read', upload).catch((error: unknown) => error)).to.be.instanceOf(BytesMissing);
    // Faults of other kinds in between, whichever is last: it is not known.
    for (const last of [OLD_ANSWER, refusal(503, 'SlowDown')]) {
      proxy.plan([
        { on: 'GET', path: OF_AN_OBJECT, fault: OLD_ANSWER, times: 1 },
        { on: 'GET', path: OF_AN_OBJECT, fault: refusal(403, 'AccessDenied'), times: 1 },
        { on: 'GET', path: OF_AN_OBJECT, fault: last, times: Number.POSITIVE_INFINITY },
      ]);
      const fault = await perform('read', upload).catch((error: unknown) => error);
      expect(fault).to.have.property('code', 'storage_fault');
    }
    for (const marker of [OLD_ANSWER, refusal(403, 'AccessDenied'), { do: 'reset' } as const]) {
      proxy.plan([
        { on: 'GET', path: OF_AN_OBJECT, fault: OLD_ANSWER, times: Number.POSITIVE_INFINITY },
        { on: 'HEAD', path: OF_AN_OBJECT, fault: OLD_ANSWER, times: Number.POSITIVE_INFINITY },
        { on: 'GET', fault: marker, times: Number.POSITIVE_INFINITY },
      ]);
      for (const operation of ['read', 'durableBytes'] as const) {
        const fault = await perform(operation, upload).catch((error: unknown) => error);
        expect(fault, operation).to.have.property('code', 'storage_fault');
        seen.push(fault);
      }
    }
    await upload.expectWhole();
  });

  it('is not another store because of one old, spoiled or refused answer', async () => {
    const older = `${JSON.stringify({ ...MARKER, generation: 0 })}\n`;
    const answers: Fault[] = [
      OLD_ANSWER,
      refusal(403, 'AccessDenied'),
      { do: 'answer', status: 200 },
      { do: 'answer', status: 200, body: older },
    ];
    for (const fault of answers) {
      fail('GET', fault, 1, /store\.json/);
      await store.probe();
      fail('GET', fault, 1, /store\.json/);
      expect(await store.readMarker()).to.include({ storeId: MARKER.storeId });
      fail('HEAD', fault, 1, /scores$|scores\?|scores\/$/);
      await store.prepare();
    }
  });

  it('is reached by HTTPS with an authority of its own, also with the largest objects, and with no other one', async () => {
    const { ca, server: pair } = await makeCertificates();
    const seenHeaders: IncomingHttpHeaders[] = [];
    const server = createServer(
      { cert: await readFile(pair.cert), key: await readFile(pair.key) },
      (request, response) => {
        const { method, url, headers } = request;
        seenHeaders.push(headers);
        const upstream = sendRequest(s3.endpoint, { method, path: url, headers }, (answered) => {
          response.writeHead(answered.statusCode ?? 502, answered.headers);
          answered.pipe(response);
        });
        request.pipe(upstream);
      },
    );
    await once(server.listen(0, '127.0.0.1'), 'listening');
    try {
      const { port } = server.address() as AddressInfo;
      const secure = { ...location, endpoint: `https://127.0.0.1:${port}` };
      // Of this size the SDK would ask for leave to send (Expect), with a connection that knows no authority of ours.
      const upload = new Upload(8 * 1024 * 1024);
      await upload.send(s3Store({ ...secure, ca: await readFile(ca, 'utf8') }), upload.content.byteLength);
      await upload.expectWhole();
      expect(seenHeaders.map(({ expect: leave }) => leave)).to.deep.equal([undefined]);
      const other = new Upload();
      const refused = await other.send(s3Store(secure, TIMING)).catch((error: unknown) => error);
      expect(refused).to.have.property('code', 'storage_fault');
      expect((refused as Error).message).to.match(/VERIFY|CERT/);
    } finally {
      server.close().closeAllConnections();
    }
  });

  it('never has its credentials in an error', () => {
    expect(seen.length).to.be.greaterThan(40);
    for (const error of seen) {
      const text = `${describeError(error)} ${inspect(error, { depth: 10, showHidden: true })}`;
      for (const secret of [s3.accessKeyId, s3.secretAccessKey, 'Signature=', 'AWS4'])
        expect(text).not.to.contain(secret);
    }
  });

  it('warns of lifecycle rules that delete objects before their uploads end, and of no others', async () => {
    const day = 24 * 60 * 60 * 1000;
    const rule = (id: string, days: number, filter: string, status = 'Enabled') =>
      `<Rule><ID>${id}</ID><Status>${status}</Status>${filter}<Expiration><Days>${days}</Days></Expiration></Rule>`;
    const prefix = (text: string) => `<Filter><Prefix>${text}</Prefix></Filter>`;
    const rules = [
      rule('of the bucket', 3, '<Filter/>'),
      rule('of the store', 13, prefix(location.prefix)),
      rule('of uploads', 1, prefix(`${location.prefix}uploads/0`)),
      rule('long enough', 14, '<Filter/>'),
      rule('of others', 1, prefix('backups/')),
      rule('disabled', 1, '<Filter/>', 'Disabled'),
      rule('of tagged objects', 1, '<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>'),
    ];
    proxy.plan([
      {
        on: 'GET',
        path: /[?&]lifecycle/,
        fault: {
          do: 'answer',
          status: 200,
          headers: { 'content-type': 'application/xml' },
          body: `<LifecycleConfiguration>${rules.join('')}</LifecycleConfiguration>`,
        },
      },
    ]);
    const warnings = await store.prepare(14 * day);
    const named = warnings.map((text) => /rule "(.*?)"/.exec(text)?.[1]);
    expect(named).to.deep.equal(['of the bucket', 'of the store', 'of uploads']);
    for (const text of warnings)
      expect(text).to.contain('14 days').and.to.contain(`${location.prefix}uploads/`);
    fail('GET', refusal(403, 'AccessDenied'), Number.POSITIVE_INFINITY, /[?&]lifecycle/);
    expect(await store.prepare(14 * day)).to.deep.equal([]);
  });

  it('keeps every object that a row names; what a late writer has left there is removed after a day', async () => {
    const own = { ...s3.newLocation(), endpoint: proxy.url };
    const system = await startSystem({ store: own });
    const { db } = openDatabase({
      databaseUrl: system.databaseUrl,
      role: 'ingest_api',
      applicationName: 'test',
      maxConnections: 1,
      onIdleError: () => {},
    });
    const bucket = s3Store(own, TIMING);
    const objects = () => objectsOf(own);
    const age = async (file: string) => utimes(file, new Date(), new Date(Date.now() - 25 * 60 * 60 * 1000));
    try {
      await pushRun(system, 'kept', 'r1', [{ name: 'a.jsonl', content: scoreLines(500) }]);
      const [named = ''] = await objects();
      await age(named);
      // A writer that was fenced while its object was on its way: the record is refused.
      const late = new Upload();
      const fenced = new IngestError('upload_locked', 'another writer has it');
      const refused = await bucket
        .write({
          upload: { ...late, sizeBytes: UPLOAD_BYTES, createdAt: new Date() },
          offsetBytes: 0,
          pieces: (async function* () {
            yield [Buffer.from(late.content)];
          })(),
          mayWrite: async () => {},
          onDurable: () => Promise.reject(fenced),
        })
        .catch((error: unknown) => error);
      expect(refused).to.equal(fenced);
      const orphan = (await objects()).find((file) => file !== named) ?? '';
      expect(await removeOrphans(db, bucket), 'it may be on its way still').to.equal(0);
      await age(orphan);
      // While the server lists or deletes nothing, nothing is concluded from it.
      for (const [on, pattern] of [
        ['GET', /list-type=2/],
        ['POST', /\?delete/],
        ['HEAD', /store\.json/],
      ] as const) {
        fail(on, refusal(503, 'SlowDown'), Number.POSITIVE_INFINITY, pattern);
        const fault = await removeOrphans(db, bucket).catch((error: unknown) => error);
        expect(fault, on).to.have.property('code', 'storage_fault');
        expect(await objects(), on).to.have.length(2);
      }
      proxy.plan([]);
      const left = await eventually(
        async () => {
          await removeOrphans(db, bucket); // it does nothing while the service is sweeping
          return objects();
        },
        (files) => files.length === 1,
      );
      expect(left).to.deep.equal([named]);
      system.startLoader();
      expect((await untilFinal(system, 'kept', 'r1')).state).to.equal('published');
    } finally {
      await db.destroy();
      await system.stop();
    }
  });
});
