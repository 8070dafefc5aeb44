import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { UploaderError } from '../src/errors.ts';
import { findRuns } from '../src/source/find-runs.ts';
import { makeScratch } from './support/scratch.ts';

describe('the layout of DIR', () => {
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(() => {
    scratch = makeScratch();
  });
  afterEach(() => scratch.remove());

  const found = async (model: string | null, run: string | null, below = '') => {
    const { runs } = await findRuns(join(scratch.path, below), model, run);
    return runs.map((one) => `${one.model}/${one.run}: ${one.files.map((file) => file.name).join(' ')}`);
  };
  const fault = async (work: Promise<unknown>): Promise<UploaderError> => {
    try {
      await work;
    } catch (error) {
      if (error instanceof UploaderError) return error;
      throw error;
    }
    throw new Error('It was expected to fail.');
  };

  it('says model and run when no flag does', async () => {
    scratch.write('b/2/x.jsonl', '');
    scratch.write('a/2/x.jsonl', '');
    scratch.write('a/10/z.json', '');
    scratch.write('a/10/y.ndjson', '');
    expect(await found(null, null)).to.deep.equal(['a/10: y.ndjson z.json', 'a/2: x.jsonl', 'b/2: x.jsonl']);
  });

  it('says the model when the run is given, the run when the model is, and neither with both', async () => {
    scratch.write('a/x.jsonl', '');
    expect(await found(null, 'r 1')).to.deep.equal(['a/r 1: x.jsonl']);
    expect(await found('m', null)).to.deep.equal(['m/a: x.jsonl']);
    expect(await found('m', 'r', 'a')).to.deep.equal(['m/r: x.jsonl']);
  });

  const faultsOf = async (ignore: string[] = [], model: string | null = null, run: string | null = null) => {
    const { runs, faults, ignored } = await findRuns(scratch.path, model, run, ignore);
    const ofRuns = runs.flatMap(({ fault }) => (fault ? [fault] : []));
    return { faults: [...faults, ...ofRuns].map(({ kind, message }) => `${kind}: ${message}`), ignored };
  };

  it('passes over names that start with _ or ., and unfinished files', async () => {
    for (const name of ['x.jsonl', '_SUCCESS', '_x.csv', '.x.jsonl.crc', 'x.jsonl.tmp', 'x.part', 'X.TMP']) {
      scratch.write(`a/1/${name}`, '');
    }
    scratch.write('.git/1/x.jsonl', '');
    scratch.write('a/_old/x.jsonl', '');
    scratch.write('a/1/_delta_log/x.json', '');
    scratch.write('a/1/.cache/deep/x', '');
    mkdirSync(join(scratch.path, 'a/1/empty'));
    expect(await found(null, null)).to.deep.equal(['a/1: x.jsonl']);
    expect((await faultsOf()).faults).to.deep.equal([]);
  });

  it('takes every data ending without regard to case', async () => {
    const names = ['jsonl', 'NDJSON', 'Json'].flatMap((ending) =>
      ['', '.gz', '.GZ', '.zst', '.Zst'].map((packed) => `x.${ending}${packed}`),
    );
    for (const name of names) scratch.write(`a/1/${name}`, '');
    expect(await found(null, null)).to.deep.equal([`a/1: ${names.sort().join(' ')}`]);
    expect((await faultsOf()).faults).to.deep.equal([]);
  });

  it('names whatever else lies there, at every level, and ends that run only', async () => {
    scratch.write('a/ok/x.jsonl', '');
    scratch.write('a/1/x.jsonl', '');
    scratch.write('a/1/more/deep/y.csv', '');
    scratch.write('a/2/x.bz2', '');
    scratch.write('a/3/_temporary/0/x.jsonl', '');
    scratch.write('a/4/sub/_temporary/x.jsonl', '');
    scratch.write('a/stray.jsonl', '');
    scratch.write('a/_temporary/x.jsonl', '');
    scratch.write('README.md', '');
    scratch.write('empty/_SUCCESS', '');
    scratch.write('Bad/1/x.jsonl', '');
    const { faults } = await faultsOf();
    const sentences = [
      /^source: README\.md: it is not a data file/,
      /^source: a\/stray\.jsonl: it belongs to no run\. a\/_temporary: a writer is at work/,
      /^source: empty: .*contains nothing to push/,
      /^usage: The folder .*Bad\/1: "Bad" is not a model name/,
      /^source: a\/1: more\/deep\/y\.csv: it is in a folder below the layout/,
      /^source: a\/2: x\.bz2: .*decompress it/,
      /^source: a\/3: _temporary: a writer is at work/,
      /^source: a\/4: sub\/_temporary: it is in a folder below/,
    ];
    for (const sentence of sentences)
      expect(
        faults.filter((fault) => sentence.test(fault)),
        String(sentence),
      ).to.have.length(1);
    expect(faults).to.have.length(sentences.length);
    expect(await found(null, null)).to.include('a/ok: x.jsonl');
  });

  it('leaves out what --ignore names, by name or by path, and says so', async () => {
    scratch.write('a/1/x.jsonl', '');
    scratch.write('a/1/y.csv', '');
    scratch.write('a/1/more/y.jsonl', '');
    scratch.write('a/1/_temporary/y.jsonl', '');
    scratch.write('a/2/notes/read.me', '');
    scratch.write('a/2/x.jsonl', '');
    scratch.write('docs/x.md', '');
    const globs = ['*.{csv,md}', 'more', 'a/1/_temporary', 'a/2/notes/**', 'docs'];
    const { faults, ignored } = await faultsOf(globs);
    expect(faults).to.deep.equal([]);
    expect(ignored).to.have.members(['a/1/y.csv', 'a/1/more', 'a/1/_temporary', 'a/2/notes/read.me', 'docs']);
    expect((await faultsOf([])).faults).to.have.length(3);
  });

  it('names a file whose name is not UTF-8, or that the service would refuse', async () => {
    scratch.write('a/1/x.jsonl', '');
    writeFileSync(
      Buffer.concat([Buffer.from(join(scratch.path, 'a/1/b')), Buffer.from([0xff]), Buffer.from('.jsonl')]),
      '',
    );
    scratch.write('a/2/c\u001b[31m\n.jsonl', '');
    scratch.write('a/2/d\\b.jsonl', '');
    scratch.write('a/2/ä 100%.jsonl', '');
    const { faults } = await faultsOf();
    expect(faults[0]).to.include('a/1: b\\xff.jsonl: its name is not UTF-8');
    expect(faults[1])
      .to.include('a/2: c\\u{1b}[31m\\u{a}.jsonl: its name contains')
      .and.include('d\\b.jsonl');
    expect(faults.join()).to.not.include('\u001b').and.not.include('100%');
  });

  it('follows links to files and to folders', async () => {
    const file = scratch.write('elsewhere/data', '');
    mkdirSync(join(scratch.path, 'in/a/1'), { recursive: true });
    symlinkSync(file, join(scratch.path, 'in/a/1/x.jsonl'));
    symlinkSync(join(scratch.path, 'in/a'), join(scratch.path, 'in/b'));
    expect(await found(null, null, 'in')).to.deep.equal(['a/1: x.jsonl', 'b/1: x.jsonl']);
  });

  it('lists a run without data files, so that it is reported as incomplete', async () => {
    scratch.write('a/1/_SUCCESS', '');
    expect(await found(null, null)).to.deep.equal(['a/1: ']);
  });

  it('is a source at fault when DIR is missing, empty, or one level off', async () => {
    expect((await fault(findRuns(join(scratch.path, 'no'), null, null))).message).to.include(
      'it does not exist',
    );
    expect((await fault(findRuns(scratch.path, null, null))).kind).to.equal('source');
    scratch.write('x.jsonl', '');
    const offByOne = await fault(findRuns(scratch.path, null, null));
    expect(offByOne.kind).to.equal('source');
    expect(offByOne.message).to.include('where folders are expected');
  });

  it('is a fault of the run when a file is no regular file, or leads nowhere or in a circle', async () => {
    scratch.write('a/ok/x.jsonl', '');
    for (const [run, target] of [
      ['1', '/nonexistent/file'],
      ['2', '/dev/null'],
      ['3', 'x.jsonl'],
      ['4', 'loop'],
    ]) {
      mkdirSync(join(scratch.path, `a/${run}`));
      symlinkSync(target as string, join(scratch.path, `a/${run}/x.jsonl`));
    }
    symlinkSync('x.jsonl', join(scratch.path, 'a/4/loop'));
    symlinkSync('/nonexistent/run', join(scratch.path, 'a/5'));
    const { faults } = await faultsOf();
    expect(faults[0]).to.match(/a\/5: it cannot be read: it does not exist/);
    expect(faults[1]).to.match(/a\/1: x.jsonl: it cannot be read: it does not exist/);
    expect(faults[2]).to.match(/a\/2: x.jsonl: it is not a regular file/);
    expect(faults[3]).to.match(/a\/3: x.jsonl: .*form a loop/);
    expect(faults[4]).to.match(/a\/4: loop: .*form a loop/);
    expect(faults).to.have.length(5);
  });

  it('is a fault of each run whose model or key cannot be used', async () => {
    for (const name of ['Churn', 'ok', '9lives', 'a'.repeat(49)]) scratch.write(`${name}/1/x.jsonl`, '');
    scratch.write(`ok/${'é'.repeat(100)}/x.jsonl`, '');
    scratch.write('ok/\u0007/x.jsonl', '');
    const { faults } = await faultsOf();
    expect(faults).to.have.length(4);
    expect(faults.join())
      .to.include('"Churn"')
      .and.include('"9lives"')
      .and.include('"\\u{7}"')
      .and.not.include('"ok"');
  });
});
