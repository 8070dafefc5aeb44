import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { findRuns } from '../src/source/find-runs.ts';
import { UploaderError } from '../src/uploader-error.ts';
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

  it('passes over names that start with _ or ., and unfinished and other files', async () => {
    for (const name of [
      'x.jsonl',
      '_SUCCESS',
      '_x.jsonl',
      '.x.jsonl',
      'x.jsonl.tmp',
      'x.part',
      'README.md',
      'x.jsonl.bz2',
    ]) {
      scratch.write(`a/1/${name}`, '');
    }
    scratch.write('.git/1/x.jsonl', '');
    scratch.write('a/_temporary/x.jsonl', '');
    expect(await found(null, null)).to.deep.equal(['a/1: x.jsonl']);
  });

  it('follows links to files and to folders', async () => {
    const file = scratch.write('elsewhere/data', '');
    mkdirSync(join(scratch.path, 'in/a/1'), { recursive: true });
    symlinkSync(file, join(scratch.path, 'in/a/1/x.jsonl'));
    symlinkSync(join(scratch.path, 'in/a'), join(scratch.path, 'in/b'));
    expect(await found(null, null, 'in')).to.deep.equal(['a/1: x.jsonl', 'b/1: x.jsonl']);
  });

  it('warns of folders below the layout and of files above it', async () => {
    scratch.write('a/1/x.jsonl', '');
    scratch.write('a/1/more/y.jsonl', '');
    scratch.write('stray.jsonl', '');
    const { warnings } = await findRuns(scratch.path, null, null);
    expect(warnings.join('\n')).to.include('more lies deeper').and.include('belong to no run');
  });

  it('lists a run that holds no data file, for it to be told as incomplete', async () => {
    scratch.write('a/1/_SUCCESS', '');
    expect(await found(null, null)).to.deep.equal(['a/1: ']);
  });

  it('is a source at fault when DIR is missing, empty, or one level off', async () => {
    expect((await fault(findRuns(join(scratch.path, 'no'), null, null))).message).to.include(
      'it is not there',
    );
    expect((await fault(findRuns(scratch.path, null, null))).kind).to.equal('source');
    scratch.write('x.jsonl', '');
    const offByOne = await fault(findRuns(scratch.path, null, null));
    expect(offByOne.kind).to.equal('source');
    expect(offByOne.message).to.include('where a folder was expected');
  });

  it('is a source at fault when a data file is no regular file or its link leads nowhere', async () => {
    mkdirSync(join(scratch.path, 'a/1'), { recursive: true });
    symlinkSync('/nonexistent/file', join(scratch.path, 'a/1/x.jsonl'));
    expect((await fault(findRuns(scratch.path, null, null))).kind).to.equal('source');
    symlinkSync('/dev/null', join(scratch.path, 'a/1/w.jsonl'));
    expect((await fault(findRuns(scratch.path, null, null))).message).to.include('not a regular file');
  });

  it('is a source at fault when what may be a run leads nowhere or in a circle, and then nothing is pushed', async () => {
    scratch.write('a/1/x.jsonl', '');
    symlinkSync('/nonexistent/run', join(scratch.path, 'a/1/notes'));
    expect(await found(null, null)).to.deep.equal(['a/1: x.jsonl']);
    symlinkSync('/nonexistent/run', join(scratch.path, 'a/2'));
    expect((await fault(findRuns(scratch.path, null, null))).message).to.include('a/2 cannot be read');
    symlinkSync('circle', join(scratch.path, 'circle'));
    const circle = await fault(findRuns(scratch.path, null, 'r'));
    expect(circle.kind).to.equal('source');
    expect(circle.message).to.include('lead in a circle');
  });

  it('is refused before anything is read when a file has a name that the service refuses', async () => {
    for (const name of ['a\u001b[31m\n.jsonl', 'a\\b.jsonl', 'ä 100%.jsonl'])
      scratch.write(`a/1/${name}`, '');
    const { kind, message } = await fault(findRuns(scratch.path, null, null));
    expect(kind).to.equal('usage');
    expect(message.split('\n')).to.have.length(2);
    expect(message).to.include('\\u001b').and.not.include('\u001b');
  });

  it('is refused as a whole when a folder has no usable name, all such folders at once', async () => {
    for (const name of ['Churn', 'ok', '9lives', 'a'.repeat(49)]) scratch.write(`${name}/1/x.jsonl`, '');
    const { kind, message } = await fault(findRuns(scratch.path, null, null));
    expect(kind).to.equal('usage');
    expect(message).to.include('"Churn"').and.include('"9lives"').and.not.include('"ok"');
  });
});
