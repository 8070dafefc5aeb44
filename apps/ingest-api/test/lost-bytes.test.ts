import { copyFile, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import {
  declare,
  eventually,
  getRun,
  manifestOf,
  patch,
  pushRun,
  type RunAnswer,
  runPath,
  type SourceFile,
  scoreLines,
  startSystem,
  storedFile,
  type TestSystem,
  untilFinal,
} from './support/system.ts';

const DEADLINE_MS = 20_000;

describe('bytes that the disk has lost', () => {
  let system: TestSystem;
  before(async () => {
    system = await startSystem();
  });
  after(() => system.stop());

  /** Files of 50 rows each; their keys do not meet. */
  function files(count: number, firstKey = 1): SourceFile[] {
    return Array.from({ length: count }, (_, i) => ({
      name: `part-${String(i).padStart(2, '0')}.jsonl`,
      content: scoreLines(50, firstKey + 50 * i),
    }));
  }

  const pathOf = (run: RunAnswer, name: string) =>
    storedFile(system, run.missing.files.find((file) => file.name === name)?.uploadUrl);

  const untilState = (model: string, run: string, state: string) =>
    eventually(
      () => getRun(system, model, run),
      (answer) => answer.state === state,
      DEADLINE_MS,
    );

  async function head(uploadUrl: string): Promise<{ status: number; offset: number }> {
    const answer = await system.request('HEAD', uploadUrl, { headers: { 'tus-resumable': '1.0.0' } });
    return { status: answer.status, offset: Number(answer.headers.get('upload-offset')) };
  }

  const offsetsOf = ({ missing }: RunAnswer) =>
    Object.fromEntries(missing.files.map(({ name, offset }) => [name, offset]));

  const lossesOf = (model: string, run: string) =>
    system.query<{ detail: { files: number; first: { file: string; storedBytes: number }[] } }>(
      `SELECT detail FROM ingest.audit_event WHERE action = 'lose_bytes' AND model = $1 AND run_key = $2`,
      [model, run],
    );

  /** While nobody loads, so that a test decides who finds it. */
  async function withLoader<T>(work: () => Promise<T>): Promise<T> {
    const loader = system.startLoader();
    try {
      return await work();
    } finally {
      await loader.stop();
    }
  }

  it('are found by a load, all of them, and the same push sends just the rest', async () => {
    const source = [...files(6), { name: 'z.jsonl.gz', content: gzipSync(scoreLines(50, 9_000)), lines: 50 }];
    const run = await pushRun(system, 'load', 'r', source);
    await rm(pathOf(run, 'part-00.jsonl'));
    await truncate(pathOf(run, 'part-03.jsonl'), 100);
    await truncate(pathOf(run, 'z.jsonl.gz'), 20);
    await withLoader(async () => {
      const waiting = await untilState('load', 'r', 'receiving');
      expect(waiting.load).to.include({ attempt: 1, outcome: 'retry' });
      expect(waiting.load?.lastError)
        .to.contain('"part-00.jsonl" (0 bytes instead of')
        .and.contain('"part-03.jsonl" (100 bytes instead of')
        .and.contain('"z.jsonl.gz" (20 bytes instead of');
      expect(offsetsOf(waiting)).to.include({ 'part-00.jsonl': 0, 'part-03.jsonl': 100, 'z.jsonl.gz': 20 });
      expect(waiting.files.received).to.equal(4);
      const [loss] = await lossesOf('load', 'r');
      expect(loss?.detail.files).to.equal(3);
      const again = await pushRun(system, 'load', 'r', source);
      expect(again.revision).to.equal(run.revision);
      expect(await untilFinal(system, 'load', 'r', DEADLINE_MS)).to.include({
        state: 'published',
        rows: 350,
      });
    });
  });

  it('are found by HEAD, which says the true offset', async () => {
    const [file] = files(1);
    if (file === undefined) throw new Error('There is no file.');
    const run = await declare(system, 'head', 'r', [file]);
    const url = run.missing.files[0]?.uploadUrl ?? '';
    await patch(system, url, 0, Buffer.from(file.content).subarray(0, 300));
    await truncate(pathOf(run, file.name), 120);
    expect(await head(url)).to.deep.equal({ status: 200, offset: 120 });
    await rm(pathOf(run, file.name));
    expect(await head(url)).to.deep.equal({ status: 200, offset: 0 });
    expect(await lossesOf('head', 'r')).to.have.length(2);
    await pushRun(system, 'head', 'r', [file]);
    expect((await getRun(system, 'head', 'r')).state).to.equal('queued');
  });

  it('are found by HEAD of a file that was complete: its run waits for the rest', async () => {
    const [file] = files(1);
    if (file === undefined) throw new Error('There is no file.');
    const run = await pushRun(system, 'complete', 'r', [file]);
    await truncate(pathOf(run, file.name), 10);
    expect(await head(run.missing.files[0]?.uploadUrl ?? '')).to.deep.equal({ status: 200, offset: 10 });
    expect((await getRun(system, 'complete', 'r')).state).to.equal('receiving');
    await pushRun(system, 'complete', 'r', [file]);
    await withLoader(async () => {
      expect((await untilFinal(system, 'complete', 'r', DEADLINE_MS)).state).to.equal('published');
    });
  });

  it('are found by PATCH, which takes nothing behind them', async () => {
    const [file] = files(1);
    if (file === undefined) throw new Error('There is no file.');
    const content = Buffer.from(file.content);
    const run = await declare(system, 'patch', 'r', [file]);
    const url = run.missing.files[0]?.uploadUrl ?? '';
    await patch(system, url, 0, content.subarray(0, 300));
    await truncate(pathOf(run, file.name), 120);
    expect((await patch(system, url, 300, content.subarray(300))).status).to.equal(409);
    expect(offsetsOf(await getRun(system, 'patch', 'r'))).to.deep.equal({ [file.name]: 120 });
    expect((await patch(system, url, 120, content.subarray(120))).status).to.equal(204);
    expect((await readFile(pathOf(run, file.name))).equals(content)).to.equal(true);
  });

  it('are never concluded from a folder that is not there', async () => {
    const source = files(1);
    const run = await pushRun(system, 'unmounted', 'r', source);
    const url = run.missing.files[0]?.uploadUrl ?? '';
    await rename(system.dataDir, `${system.dataDir}.away`);
    try {
      expect((await head(url)).status).to.equal(503);
    } finally {
      await rename(`${system.dataDir}.away`, system.dataDir);
    }
    expect((await head(url)).offset).to.equal(Buffer.byteLength(source[0]?.content ?? ''));
    expect((await getRun(system, 'unmounted', 'r')).state).to.equal('queued');
  });

  it('and a missing folder are a storage fault for whoever asks how much room there is, and the scrape reports it', async () => {
    const plain = { 'tus-resumable': '1.0.0', 'upload-length': '5' };
    const metadata = Object.entries({ model: 'room', run: 'plain', filename: 'a.jsonl' })
      .map(([key, value]) => `${key} ${Buffer.from(value).toString('base64')}`)
      .join(',');
    await rename(system.dataDir, `${system.dataDir}.away`);
    try {
      const answers = [
        await system.request('PUT', runPath('room', 'r'), { json: manifestOf(files(1)) }),
        await system.request('POST', '/v1/uploads', { headers: { ...plain, 'upload-metadata': metadata } }),
        await system.request('GET', '/v1/status'),
      ];
      for (const answer of answers) {
        const { code, detail } = (await answer.json()) as { code: string; detail: string };
        expect([answer.status, code], answer.url).to.deep.equal([503, 'storage_fault']);
        expect(detail).to.include(`${system.dataDir}, is missing`);
        expect(answer.headers.get('retry-after')).to.match(/^\d+$/);
      }
      const scrape = await system.request('GET', '/metrics');
      expect(scrape.status).to.equal(200);
      const text = await scrape.text();
      expect(text).to.match(/^ingest_disk_free_bytes NaN$/im);
      expect(text).to.match(/^ingest_disk_largest_upload_bytes NaN$/im);
      expect(text).to.match(/^ingest_http_problems_total\{code="storage_fault"\} [1-9]/m);
      expect(text).to.match(/^ingest_queue_runs \d/m);
    } finally {
      await rename(`${system.dataDir}.away`, system.dataDir);
    }
    expect((await system.request('GET', '/v1/status')).status).to.equal(200);
    expect(await (await system.request('GET', '/metrics')).text()).to.match(/^ingest_disk_free_bytes \d/m);
  });

  it('are forgotten when no run waits for them, and sent again by whoever needs them next', async () => {
    const source = files(1);
    for (const method of ['HEAD', 'PATCH', 'DELETE']) {
      const model = `loaded_${method.toLowerCase()}`;
      const run = await pushRun(system, model, 'r', source);
      await withLoader(() => untilFinal(system, model, 'r', DEADLINE_MS));
      await rm(pathOf(run, source[0]?.name ?? ''));
      const answer = await system.request(method, run.missing.files[0]?.uploadUrl ?? '', {
        headers: { 'tus-resumable': '1.0.0', 'content-type': 'application/offset+octet-stream' },
      });
      expect(answer.status, method).to.equal(410);
      expect((await getRun(system, model, 'r')).state).to.equal('published');
      const other = await declare(system, model, 'r2', source);
      expect(offsetsOf(other)).to.deep.equal({ [source[0]?.name ?? '']: 0 });
    }
  });

  it('set back every run that shares them, also one that is queued behind', async () => {
    const source = files(3);
    const first = await pushRun(system, 'shared', 'first', source);
    await pushRun(system, 'shared', 'second', source);
    await pushRun(system, 'shared', 'third', [
      ...files(1),
      ...files(1, 5_000).map((f) => ({ ...f, name: 'x.jsonl' })),
    ]);
    await rm(pathOf(first, 'part-00.jsonl'));
    await withLoader(async () => {
      await untilState('shared', 'first', 'receiving');
      for (const run of ['second', 'third']) await untilState('shared', run, 'receiving');
      await pushRun(system, 'shared', 'second', source);
      for (const run of ['first', 'second', 'third'])
        expect((await untilFinal(system, 'shared', run, DEADLINE_MS)).state, run).to.be.oneOf([
          'published',
          'superseded',
        ]);
    });
  });

  describe('or changed', () => {
    const corrupt = (file: string) =>
      readFile(file).then((bytes) => {
        bytes[bytes.length - 4] = (bytes[bytes.length - 4] ?? 0) ^ 1;
        return writeFile(file, bytes);
      });

    it('are all found in one load, named, and sent again by the next push, with nothing else', async () => {
      const source = files(14);
      const run = await pushRun(system, 'many', 'r', source);
      for (const { name } of source.slice(0, 12)) await corrupt(pathOf(run, name));
      await truncate(pathOf(run, 'part-12.jsonl'), 70);
      await withLoader(async () => {
        const failed = await untilFinal(system, 'many', 'r', DEADLINE_MS);
        expect([failed.state, failed.error?.code]).to.deep.equal(['failed', 'content_mismatch']);
        expect(failed.error?.detail)
          .to.contain('13 files')
          .and.contain('"part-09.jsonl" (sha256')
          .and.contain('and 3 more');
        expect(failed.error?.detail).to.not.contain('part-10');
        const again = await declare(system, 'many', 'r', source);
        expect(again.revision).to.equal(2);
        expect(again.files).to.include({ total: 14, received: 1 });
        expect(again.missing.files.map(({ name }) => name)).to.not.include('part-13.jsonl');
        await pushRun(system, 'many', 'r', source);
        const run = await untilFinal(system, 'many', 'r', DEADLINE_MS);
        expect(run).to.include({ state: 'published', rows: 700 });
        expect(
          await system.query(
            `SELECT FROM ingest.load_attempt a JOIN ingest.run_revision USING (revision_id) WHERE model = 'many'`,
          ),
        ).to.have.length(2);
      });
    });

    it('are found when the file is compressed, or longer than it was', async () => {
      const source = [
        { name: 'a.jsonl.gz', content: gzipSync(scoreLines(2_000)), lines: 2_000 },
        { name: 'b.jsonl', content: scoreLines(50, 9_000) },
      ];
      const run = await pushRun(system, 'kinds', 'r', source);
      await corrupt(pathOf(run, 'a.jsonl.gz'));
      await copyFile(pathOf(run, 'a.jsonl.gz'), pathOf(run, 'b.jsonl'));
      await withLoader(async () => {
        const failed = await untilFinal(system, 'kinds', 'r', DEADLINE_MS);
        expect(failed.error?.detail)
          .to.contain('2 files')
          .and.contain('"a.jsonl.gz" (sha256')
          .and.contain('"b.jsonl" (');
        await pushRun(system, 'kinds', 'r', source);
        expect((await untilFinal(system, 'kinds', 'r', DEADLINE_MS)).rows).to.equal(2_050);
      });
    });

    it('set the run that shares them back to receiving, and only the one that was loaded fails', async () => {
      const source = files(2);
      const first = await pushRun(system, 'both', 'first', source);
      await pushRun(system, 'both', 'second', source);
      await corrupt(pathOf(first, 'part-01.jsonl'));
      await withLoader(async () => {
        const failed = await untilFinal(system, 'both', 'first', DEADLINE_MS);
        expect([failed.state, failed.error?.code]).to.deep.equal(['failed', 'content_mismatch']);
        const waiting = await untilState('both', 'second', 'receiving');
        expect(offsetsOf(waiting)['part-01.jsonl']).to.equal(0);
        expect(waiting.files.received).to.equal(1);
        await pushRun(system, 'both', 'second', source);
        expect((await untilFinal(system, 'both', 'second', DEADLINE_MS)).state).to.equal('published');
        await pushRun(system, 'both', 'first', source);
        expect((await untilFinal(system, 'both', 'first', DEADLINE_MS)).state).to.be.oneOf([
          'published',
          'superseded',
        ]);
      });
    });

    it('do not make an operator wait who retries the failed run: it waits for the bytes', async () => {
      const source = files(2);
      const first = await pushRun(system, 'retried', 'first', source);
      await pushRun(system, 'retried', 'second', source);
      await corrupt(pathOf(first, 'part-01.jsonl'));
      const operator = await system.createToken({ name: 'retrier', scopes: ['operate'] });
      await withLoader(async () => {
        await untilFinal(system, 'retried', 'first', DEADLINE_MS);
        await untilState('retried', 'second', 'receiving');
        const retried = await system.request('POST', `${runPath('retried', 'first')}/retry`, {
          json: { reason: 'it may work now' },
          token: operator,
        });
        expect(retried.status).to.equal(200);
        await untilState('retried', 'first', 'receiving');
        await pushRun(system, 'retried', 'second', source);
        for (const run of ['first', 'second'])
          expect((await untilFinal(system, 'retried', run, DEADLINE_MS)).state).to.be.oneOf([
            'published',
            'superseded',
          ]);
      });
    });
  });
});
