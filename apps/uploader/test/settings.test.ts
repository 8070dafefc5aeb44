import { readFileSync } from 'node:fs';
import { getCACertificates } from 'node:tls';
import { expect } from 'chai';
import { createProgram } from '../src/cli.ts';
import { UploaderError } from '../src/errors.ts';
import { useTlsIdentity } from '../src/http/exchange.ts';
import { loadLocalSettings, loadSettings, wantsJson } from '../src/settings/settings.ts';
import { findStateDir } from '../src/settings/state.ts';
import { parseAsOf, parseDurationMs, parseSizeBytes, SETTINGS } from '../src/settings/table.ts';
import { startUploader } from './support/run-uploader.ts';
import { makeScratch } from './support/scratch.ts';

describe('settings', () => {
  let scratch: ReturnType<typeof makeScratch>;
  beforeEach(() => {
    scratch = makeScratch();
  });
  afterEach(() => scratch.remove());

  const given = { UPLOADER_URL: 'https://host/ingest/', UPLOADER_TOKEN: 'secret' };
  const faultsOf = (flags: Record<string, string>, env: NodeJS.ProcessEnv): string => {
    try {
      loadSettings('push', flags, env);
    } catch (error) {
      if (error instanceof UploaderError && error.kind === 'usage') return error.message;
      throw error;
    }
    return '';
  };

  it('have defaults for all but address and token', () => {
    const settings = loadSettings('push', {}, given);
    expect(settings).to.deep.include({
      url: 'https://host/ingest',
      token: 'secret',
      tokenSource: { value: 'secret', from: 'UPLOADER_TOKEN' },
      ignore: [],
      transfers: 4,
      chunkSizeBytes: 67_108_864,
      maxDurationMs: 21_600_000,
      pollMs: 5000,
      stallTimeoutMs: 60_000,
      dryRun: false,
      wait: true,
      json: false,
      requireShown: false,
    });
    const others = Object.entries(SETTINGS).filter(([, setting]) => setting.default === undefined);
    for (const [key] of others.filter(([key]) => key !== 'url')) expect(settings).to.have.property(key, null);
  });

  it('are all in the manual: option, variable, key of the config file, default, help', () => {
    const manual = readFileSync(new URL('../../../docs/uploader.md', import.meta.url), 'utf8');
    const section = manual.split('\n## Settings\n')[1]?.split('\n## ')[0] ?? '';
    const rows = [...section.matchAll(/^\| (`--.*) \|$/gm)].map(([, row = '']) =>
      row.split('|').map((cell) => cell.trim()),
    );
    const settings = Object.values(SETTINGS).map((setting) => [
      `\`${setting.flag.split(' ')[0]}\``,
      `\`${setting.env}\``,
      setting.inConfigFile ? `\`${setting.name}\`` : '',
      setting.default || setting.without || '',
      setting.help,
    ]);
    expect(rows).to.deep.equal(settings);
  });

  it('have variables of the same name as the option, as the help says', () => {
    for (const { flag, env } of Object.values(SETTINGS)) {
      const [option = ''] = flag.replace(/^--(no-)?/, '').split(' ');
      expect(env).to.equal(`UPLOADER_${option.toUpperCase().replaceAll('-', '_')}`);
    }
  });

  it('say the half of a client certificate that is missing, wherever the other half is', () => {
    const pem = scratch.write('x.pem', getCACertificates('bundled')[0] ?? '');
    const config = scratch.write('c.json', JSON.stringify({ key: pem }));
    for (const [flags, env, fault] of [
      [{ cert: pem }, {}, /^--cert needs the key .* set --key or UPLOADER_KEY\.$/],
      [{}, { UPLOADER_CERT: pem }, /^UPLOADER_CERT needs the key/],
      [{ key: pem }, {}, /^--key needs the certificate .* set --cert or UPLOADER_CERT\.$/],
      [{}, { UPLOADER_CONFIG: config }, /^"key" in .*c\.json needs the certificate/],
      [{ cert: pem }, { UPLOADER_CONFIG: config }, /^$/],
    ] as const)
      expect(faultsOf(flags, { ...given, ...env })).to.match(fault);
  });

  it('say which certificate cannot be used', () => {
    const pem = '-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n';
    const none = { ca: null, clientCert: null, clientKey: null };
    const file = scratch.write('y.pem', '');
    for (const [content, says] of [
      [pem, 'has a certificate that cannot be read, number 1 of 1 '],
      [pem.replaceAll('CERTIFICATE', 'PRIVATE KEY'), 'has no certificate '],
      ['text', 'must be a PEM file '],
      ['', 'must be a PEM file '],
    ] as const) {
      scratch.write('y.pem', content);
      for (const name of ['ca', 'cert'])
        expect(faultsOf({ [name]: file }, given)).to.match(
          new RegExp(`^--${name} ${says}.*\\(it is ".*y\\.pem"\\)`),
        );
    }
    const identity = { ...none, clientCert: pem, clientKey: pem };
    expect(() => useTlsIdentity(identity))
      .to.throw(/^--cert and --key are not a certificate and its key/)
      .with.include({ name: 'UploaderError', kind: 'usage' });
  });

  it('come from flags before the environment, and from there before the config file', () => {
    const config = scratch.write(
      'c.json',
      '{"transfers": 7, "model": "file_model", "chunkSize": "1MiB", "wait": false}',
    );
    const env = { ...given, UPLOADER_TRANSFERS: '6', UPLOADER_MODEL: 'env_model', UPLOADER_CONFIG: config };
    const settings = loadSettings('push', { transfers: '5' }, env);
    expect(settings).to.include({ transfers: 5, model: 'env_model', chunkSizeBytes: 1_048_576, wait: false });
  });

  it('take the config file of the user when none is named, and go without when there is none', () => {
    scratch.write('uploader/config.json', '{"url": "https://from-file"}');
    const env = { UPLOADER_TOKEN: 't', XDG_CONFIG_HOME: scratch.path };
    expect(loadSettings('push', {}, env).url).to.equal('https://from-file');
    expect(faultsOf({ config: '/nonexistent' }, given)).to.include('/nonexistent cannot be read');
  });

  it('take the token from --token-file, UPLOADER_TOKEN, UPLOADER_TOKEN_FILE, the config file, in this order', () => {
    const file = (name: string) => scratch.write(name, `${name}\n`);
    const config = scratch.write(
      'c.json',
      JSON.stringify({ url: 'https://h', tokenFile: file('of-config') }),
    );
    const env: NodeJS.ProcessEnv = { UPLOADER_CONFIG: config };
    expect(loadSettings('push', {}, env).token).to.equal('of-config');
    env.UPLOADER_TOKEN_FILE = file('of-env-file');
    expect(loadSettings('push', {}, env).token).to.equal('of-env-file');
    env.UPLOADER_TOKEN = 'of-env';
    expect(loadSettings('push', {}, env).token).to.equal('of-env');
    expect(loadSettings('push', { tokenFile: file('of-flag') }, env).token).to.equal('of-flag');
  });

  describe('of a command', () => {
    const NAMES = ['push', 'check', 'watch', 'status', 'publish', 'retry', 'withdraw'] as const;
    const load = (command: (typeof NAMES)[number], env: NodeJS.ProcessEnv) =>
      command === 'check'
        ? loadLocalSettings(command, {}, env)
        : loadSettings(command, {}, { ...given, ...env });

    it('are those of its options: no variable and no key of the config file changes another', () => {
      const pem = scratch.write('x.pem', getCACertificates('bundled')[0] ?? '');
      const texts: Partial<Record<keyof typeof SETTINGS, string>> = {
        model: 'm',
        run: 'r',
        ignore: '*.csv',
        asOf: '2026-11-01',
        transfers: '9',
        chunkSizeBytes: '1MiB',
        compress: 'off',
        bytesPerSecond: '1MB',
        stateDir: '/s',
        wait: 'false',
        requireShown: 'true',
        dryRun: 'true',
        json: 'true',
        resultFile: '/r',
        url: 'https://other',
        tokenFile: scratch.write('token', 'of-file'),
        ca: pem,
        maxDurationMs: '9s',
        stallTimeoutMs: '9s',
        pollMs: '9s',
      };
      for (const command of NAMES)
        for (const [key, text] of Object.entries(texts)) {
          const setting = SETTINGS[key as keyof typeof SETTINGS];
          if (setting.refusedBy.includes(command)) continue;
          const config = scratch.write('c.json', JSON.stringify({ [setting.name]: text }));
          const places = [
            { [setting.env]: text },
            ...(setting.inConfigFile ? [{ UPLOADER_CONFIG: config }] : []),
          ];
          for (const env of places) {
            const [plain, set] = [load(command, {}), load(command, env as NodeJS.ProcessEnv)].map(
              (it) => it[key as 'run'],
            );
            const isTaken = JSON.stringify(plain) !== JSON.stringify(set);
            const isOverridden = key === 'url' && !('UPLOADER_URL' in env);
            expect(isTaken, `${command} ${key}`).to.equal(
              setting.commands.includes(command) && !isOverridden,
            );
          }
        }
    });

    it('may be wrong where they are those of another: they are not read', () => {
      for (const command of ['status', 'publish', 'retry', 'withdraw'] as const)
        expect(load(command, { UPLOADER_CHUNK_SIZE: 'x', UPLOADER_AS_OF: 'x' })).to.include({ asOf: null });
      expect(load('check', { UPLOADER_URL: 'x', UPLOADER_POLL: 'x' })).to.include({ pollMs: 5000 });
    });

    it('have a dry run for push; the others that act end with 2 where one is set, and those that do not act ignore it', () => {
      const config = scratch.write('c.json', '{"dryRun": true}');
      for (const command of NAMES)
        for (const [env, from] of [
          [{ UPLOADER_DRY_RUN: 'true' }, 'UPLOADER_DRY_RUN'],
          [{ UPLOADER_CONFIG: config }, `"dryRun" in ${config}`],
        ] as const) {
          if (command === 'push') expect(load(command, env).dryRun).to.equal(true);
          else if (command === 'check' || command === 'status')
            expect(load(command, env).dryRun).to.equal(false);
          else {
            expect(() => load(command, env))
              .to.throw(
                `${from} is set, and uploader ${command} has no --dry-run: nothing was done. Unset it, or set UPLOADER_DRY_RUN=false for this command.`,
              )
              .with.include({ kind: 'usage' });
            expect(() => load(command, { UPLOADER_DRY_RUN: 'maybe' })).to.throw('must be true or false');
            expect(load(command, { ...env, UPLOADER_DRY_RUN: 'false' }).dryRun).to.equal(false);
          }
        }
    });
  });

  it('refuse a token in the config file, and keys that are none', () => {
    const config = scratch.write('c.json', '{"token": "x", "transfer": 3}');
    expect(faultsOf({ config }, given)).to.include('must not contain a token').and.include('"transfer"');
  });

  it('refuse --config and --result-file in the config file, which are read before it or without it', () => {
    const config = scratch.write('c.json', '{"config": "other.json", "resultFile": "r.json"}');
    expect(faultsOf({ config }, given)).to.include('"config"').and.include('"resultFile"');
  });

  it('say where a config file is not JSON, and what it must be', () => {
    const faultOf = (text: string) => faultsOf({ config: scratch.write('c.json', text) }, given);
    for (const [text, place] of [
      ['{\n  "url": "https://h",\n}\n', 'line 3, column 1, at "}"'],
      ["{'url': 'https://h'}", `line 1, column 2, at "'url'`],
      ['url: https://h\n', '"u" is not expected'],
      ['{"url": "https://h"', 'it ends too early'],
      ['', 'it is empty'],
      ['[]', 'one JSON object'],
    ] as const) {
      expect(faultOf(text), text)
        .to.include(place)
        .and.include('without comments')
        .and.not.include('JSON at');
    }
    expect(faultsOf({ config: scratch.path }, given)).to.include('cannot be read: it is a folder');
    const config = scratch.write('c.json', '\ufeff{"transfers": 3}');
    expect(loadSettings('push', { config }, given).transfers).to.equal(3);
  });

  it('say that the result is wanted as JSON, wherever that is set, also when others are at fault', () => {
    const config = scratch.write('c.json', '{"json": true, "transfers": 0}');
    expect(wantsJson({ config }, {})).to.equal(true);
    expect(wantsJson({ config }, { UPLOADER_JSON: 'no' })).to.equal(false);
    expect(wantsJson({ config, json: 'true' }, { UPLOADER_JSON: 'no' })).to.equal(true);
    expect(wantsJson({ config: '/nonexistent' }, { UPLOADER_JSON: 'maybe' })).to.equal(false);
  });

  it('tell all faults at once, each with where it came from, and never the token', () => {
    const faults = faultsOf(
      { transfers: '0', chunkSize: '1', model: 'No', run: '..', asOf: 'yesterday' },
      { UPLOADER_URL: 'https://user:pw@host', UPLOADER_TOKEN: 'bad token', UPLOADER_POLL: '5' },
    );
    for (const part of [
      '--transfers',
      '--chunk-size',
      '--model',
      '--run',
      '--as-of',
      'UPLOADER_URL',
      'UPLOADER_POLL',
    ]) {
      expect(faults).to.include(part);
    }
    expect(faults).to.include('UPLOADER_TOKEN').and.not.include('bad token');
    expect(faultsOf({}, {}))
      .to.include('The address of the service is missing')
      .and.include('There is no token');
  });

  it('take an --as-of that a template left empty as not given', () => {
    expect(loadSettings('push', { asOf: '' }, given).asOf).to.equal(null);
  });

  it('read sizes, durations and dates as people write them', () => {
    expect(['64MiB', '64m', '67108864', '1.5GB', '1 kB'].map(parseSizeBytes)).to.deep.equal([
      67_108_864, 67_108_864, 67_108_864, 1_500_000_000, 1000,
    ]);
    expect(['', '-1', '1TiB', 'x'].map(parseSizeBytes)).to.deep.equal([null, null, null, null]);
    expect(['6h', '90s', '250ms', '1h30m', '0.5s'].map(parseDurationMs)).to.deep.equal([
      21_600_000, 90_000, 250, 5_400_000, 500,
    ]);
    expect(['', '5', 'h', '1w'].map(parseDurationMs)).to.deep.equal([null, null, null, null]);
    expect(
      ['2026-11-01', '2026-11-01T00:00:00+00:00', '2026-11-01 02:00:00+02:00'].map(parseAsOf),
    ).to.deep.equal(Array.from({ length: 3 }, () => '2026-11-01T00:00:00.000Z'));
    expect(['2026-02-30', '2026-11-01T00:00:00', 'None', '1'].map(parseAsOf)).to.deep.equal([
      null,
      null,
      null,
      null,
    ]);
  });

  it('are not set where a variable is empty, or the config file has null or an empty text', () => {
    const plain = loadSettings('push', {}, given);
    for (const { name, env, inConfigFile } of Object.values(SETTINGS)) {
      if (env === 'UPLOADER_URL') continue;
      expect(loadSettings('push', {}, { ...given, [env]: '' }), env).to.deep.equal(plain);
      for (const empty of inConfigFile ? ['', null] : []) {
        const UPLOADER_CONFIG = scratch.write('c.json', JSON.stringify({ [name]: empty }));
        const { config, ...others } = loadSettings('push', {}, { ...given, UPLOADER_CONFIG });
        expect({ ...others, config: null }, name).to.deep.equal(plain);
      }
    }
  });

  it('and arguments that are empty end each command with 2, where an empty text would be a path or a name', async () => {
    const terminal = { env: {}, writeOut: () => true, writeError: () => true, errorTty: null };
    const interrupt = new AbortController().signal;
    const newProgram = () => createProgram({ terminal, interrupt, begin: () => {}, finish: () => {} });
    const calls = newProgram().commands.flatMap((command) => {
      const names = command.registeredArguments.map((_, index) => `x${index}`);
      const options = command.options.filter(({ flags }) => /<(dir|file)>/.test(flags));
      return [
        ...names.map((_, index) => [command.name(), ...names.with(index, '')]),
        ...options.map(({ long }) => [command.name(), ...names, long ?? '', '']),
      ];
    });
    expect(calls.length).to.be.above(30);
    for (const call of calls) {
      const args = call[0] === 'publish' ? [...call, '--reason', 'x'] : call;
      const fault = await newProgram()
        .parseAsync(args, { from: 'user' })
        .then(
          () => 'nothing',
          (error: Error) => error.message,
        );
      expect(fault, args.join(' ')).to.include('It is empty. If it comes from a variable of the shell');
    }
    const { exitCode, stderr } = await startUploader(['push', ''], { ...given, HOME: scratch.path }).finished;
    expect(exitCode, stderr).to.equal(2);
  });

  it('keep state where XDG says, and nowhere without a home', () => {
    expect(findStateDir(null, { XDG_STATE_HOME: '/s', HOME: '/h' })).to.equal('/s/uploader');
    expect(findStateDir(null, { HOME: '/h' })).to.equal('/h/.local/state/uploader');
    expect(findStateDir(null, {})).to.equal(null);
  });
});
