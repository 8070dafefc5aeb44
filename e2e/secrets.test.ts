import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'chai';
import { type Ending, waitFor } from './support/programs.ts';
import { startTestSystem, type TestSystem } from './support/test-system.ts';

const PATIENCE_MS = 60_000;
/** Looks like a token, so that nothing refuses it by its form. */
const CANARY = 'si_canary0123456789abcdefghijklmnopqrstuvwxyz';

describe('what the programs write', function () {
  this.timeout(3 * PATIENCE_MS);
  let system: TestSystem;

  beforeEach(async () => {
    system = await startTestSystem();
  });
  afterEach(() => system.stop());

  async function folder(model: string, text: string): Promise<string> {
    const dir = join(system.workDir, 'out', model, '2026-11');
    await mkdir(dir, { recursive: true });
    await writeFile(join(dir, 'part-1.jsonl'), text);
    return join(system.workDir, 'out');
  }

  it('holds neither token nor password: service, loader and uploader at their most talkative', async () => {
    const trace = { INGEST_LOG_LEVEL: 'trace' };
    const password = new URL(system.databaseUrl).password;
    const service = await system.startService({ env: trace });
    const loader = system.startLoader(trace);
    await folder('fraud', '{"pk":"1","score":"high"}\n');
    const out = await folder('churn', '{"pk":"1","score":"1"}\n');
    const tokenFile = join(system.workDir, 'token');
    await writeFile(tokenFile, `${system.token}\n`, { mode: 0o600 });

    const byFile = { UPLOADER_TOKEN: '', UPLOADER_TOKEN_FILE: tokenFile };
    const inAddress = service.url.replace('http://', `http://me:${CANARY}@`);
    const endings: Record<string, Ending> = {
      pushed: await system.runUploader(service.url, ['push', out, '--json']),
      'pushed again': await system.runUploader(service.url, ['push', out, '--json'], byFile),
      status: await system.runUploader(service.url, ['status', '--json']),
      'an unknown token': await system.runUploader(service.url, ['push', out], { UPLOADER_TOKEN: CANARY }),
      'a token with a line break': await system.runUploader(service.url, ['push', out], {
        UPLOADER_TOKEN: `${CANARY}\nmore`,
      }),
      'a token in the address': await system.runUploader(inAddress, ['push', out]),
      'nobody at the address': await system.runUploader('http://127.0.0.1:9', [
        'push',
        out,
        '--max-duration',
        '2s',
      ]),
      'a broken configuration': await system.runUploader(service.url, ['push', out, '--config', tokenFile]),
    };
    expect(endings.pushed?.code, endings.pushed?.stderr).to.equal(65); // fraud is bad
    expect(endings['an unknown token']?.code).to.equal(77);
    await waitFor(
      'the load of churn in the log of the loader',
      () => loader.stdout().includes('"load ended"') || undefined,
      PATIENCE_MS,
    );

    const written: Record<string, string> = {
      service: service.stdout() + service.stderr(),
      loader: loader.stdout() + loader.stderr(),
    };
    for (const [name, { stdout, stderr }] of Object.entries(endings)) written[name] = stdout + stderr;
    for (const file of await readdir(system.workDir, { recursive: true, withFileTypes: true }))
      if (file.isFile() && file.name !== 'token')
        written[file.name] = await readFile(join(file.parentPath, file.name), 'utf8');
    expect(Object.keys(written)).to.include('part-1.jsonl');
    for (const [name, text] of Object.entries(written))
      for (const secret of [CANARY, system.token, password]) expect(text, name).to.not.include(secret);
    const kept = await system.query('SELECT to_jsonb(e) FROM ingest.audit_event e');
    expect(JSON.stringify(kept)).to.not.include(CANARY).and.not.include(system.token);
  });

  it('holds no password when the database refuses it, or cannot be reached', async () => {
    const wrong = new URL(system.databaseUrl);
    wrong.password = CANARY;
    const away = new URL(wrong);
    away.port = '9';
    for (const { href } of [wrong, away]) {
      const loader = system.startLoader({ DATABASE_URL: href, INGEST_LOG_LEVEL: 'trace' });
      await waitFor(
        'a word about the database',
        () =>
          /password authentication failed|ECONNREFUSED/.test(loader.stdout() + loader.stderr()) || undefined,
        PATIENCE_MS,
      );
      await loader.kill('SIGTERM');
      expect(loader.stdout() + loader.stderr()).to.not.include(CANARY);
    }
  });
});
