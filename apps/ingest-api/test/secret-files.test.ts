import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'chai';
import { loadDatabaseConfig } from '../src/config.ts';

describe('secrets in files', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'ingest-secrets-'));
  });
  after(() => rm(folder, { recursive: true }));

  it('are read from where NAME_FILE says, without the white space around them', async () => {
    const file = path.join(folder, 'database-url');
    await writeFile(file, 'postgres://login:secret@host/scores\n');
    const { databaseUrl } = loadDatabaseConfig({ DATABASE_URL_FILE: file });
    expect(databaseUrl).to.equal('postgres://login:secret@host/scores');
  });

  it('are refused when the value is in the environment too, or the file does not exist', () => {
    const both = { DATABASE_URL: 'postgres://', DATABASE_URL_FILE: '/x' };
    expect(() => loadDatabaseConfig(both)).to.throw('DATABASE_URL and DATABASE_URL_FILE are both set');
    const missing = { DATABASE_URL_FILE: path.join(folder, 'missing') };
    expect(() => loadDatabaseConfig(missing)).to.throw('DATABASE_URL_FILE cannot be read: ENOENT');
  });

  it('change nothing where none is named', () => {
    const databaseUrl = 'postgres://login@host/scores';
    const config = loadDatabaseConfig({ DATABASE_URL: databaseUrl, DATABASE_URL_FILE: '' });
    expect(config).to.include({ databaseUrl });
  });
});
