import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import { withSecretFiles } from '../src/secret-files.ts';

describe('secrets in files', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'ingest-secrets-'));
  });
  after(() => rm(folder, { recursive: true }));

  it('are read from where NAME_FILE says, without the white space around them', async () => {
    const file = path.join(folder, 'database-url');
    await writeFile(file, 'postgres://login:secret@host/scores\n');
    const env = withSecretFiles({ DATABASE_URL_FILE: file, INGEST_PORT: '1' });
    expect(env).to.include({ DATABASE_URL: 'postgres://login:secret@host/scores', INGEST_PORT: '1' });
  });

  it('are refused when the value stands in the environment too, or the file is not there', () => {
    const both = { DATABASE_URL: 'postgres://', DATABASE_URL_FILE: '/x' };
    expect(() => withSecretFiles(both)).to.throw('DATABASE_URL and DATABASE_URL_FILE are both set');
    const missing = { DATABASE_URL_FILE: path.join(folder, 'missing') };
    expect(() => withSecretFiles(missing)).to.throw('DATABASE_URL_FILE: ENOENT');
  });

  it('change nothing where none is named', () => {
    expect(withSecretFiles({ DATABASE_URL: 'a', DATABASE_URL_FILE: '' })).to.include({ DATABASE_URL: 'a' });
  });
});
