import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import {
  defaultOf,
  loadDatabaseConfig,
  loadLoaderConfig,
  loadServeConfig,
  loadStoreConfig,
  SECRETS,
  VARIABLES,
} from '../src/config.ts';

const run = promisify(execFile);
const MAIN = path.join(import.meta.dirname, '../bin/ingest-api.js');
const EXAMPLE = path.join(import.meta.dirname, '../../../.env.example');

const LOADERS = {
  serve: loadServeConfig,
  load: loadLoaderConfig,
  store: loadStoreConfig,
  database: loadDatabaseConfig,
} as const;
const COMMANDS = Object.keys(VARIABLES) as (keyof typeof VARIABLES)[];

function variablesOf(command: keyof typeof VARIABLES) {
  return VARIABLES[command].flatMap((group) => Object.values(group));
}

describe('the configuration', () => {
  it('has every variable in .env.example, with its default, and no other', async () => {
    const defaults = new Map<string, string | undefined>();
    for (const { name, schema } of COMMANDS.flatMap(variablesOf)) defaults.set(name, defaultOf(schema));
    for (const name of SECRETS) defaults.set(`${name}_FILE`, undefined);
    const written = (await readFile(EXAMPLE, 'utf8')).matchAll(/^(# )?((?:INGEST|DATABASE)_\w+)=(.*)$/gm);
    const examples = [...written].map(([, comment, name = '', value]) => ({ comment, name, value }));
    expect(examples.map(({ name }) => name)).to.have.members([...defaults.keys()]);
    for (const { comment, name, value } of examples) {
      const fallback = defaults.get(name);
      if (fallback === undefined) continue;
      expect(value, name).to.equal(fallback);
      expect(comment, `${name} has a default: a comment shows it`).to.equal('# ');
    }
  });

  it('is made of the defaults, and of the variables that have none', () => {
    const required = { DATABASE_URL: 'postgres://login@host/scores', INGEST_DATA_DIR: '/data' };
    for (const command of COMMANDS) {
      const written = Object.fromEntries(
        variablesOf(command).map(({ name, schema }) => [name, defaultOf(schema) ?? '']),
      );
      const load = LOADERS[command];
      expect(load({ ...written, ...required }), command).to.deep.equal(load(required));
    }
  });

  it('names every variable that is wrong or missing at once, also a secret in a file that is not there', () => {
    for (const command of COMMANDS) {
      const variables = variablesOf(command);
      const missing = variables.filter(({ schema }) => !schema.safeParse(undefined).success);
      expectFaults(command, {}, missing);
      const wrong = variables.filter(({ schema }) => !schema.safeParse('?').success);
      const env = Object.fromEntries(wrong.map(({ name }) => [name, '?']));
      expectFaults(command, env, new Set([...wrong, ...missing]));
      const address = { INGEST_STORE: 'gs://bucket' };
      if (command !== 'database') expectFaults(command, address, [{ name: 'INGEST_STORE: must be a path' }]);
      const files = Object.fromEntries(SECRETS.map((name) => [`${name}_FILE`, '/nonexistent']));
      expectFaults(command, { ...env, ...files }, new Set([...wrong, ...missing]));
    }
  });

  function expectFaults(
    command: keyof typeof VARIABLES,
    env: Record<string, string>,
    variables: Iterable<{ readonly name: string }>,
  ): void {
    let message = '';
    try {
      LOADERS[command](env);
    } catch (error) {
      message = (error as Error).message;
    }
    for (const { name } of variables) expect(message, `${command}: ${name}`).to.include(`\n  ${name}`);
    for (const name of Object.keys(env)) expect(message, command).not.to.include(`\n  ${name} is not set`);
  }

  it('has numbers in decimal digits, and times that a timer can wait', () => {
    for (const command of COMMANDS) {
      const accepts = (schema: ReturnType<typeof variablesOf>[number]['schema'], text: string) =>
        schema.safeParse(text).success;
      const numbers = variablesOf(command).filter(
        ({ schema }) => accepts(schema, '5') && !accepts(schema, '?'),
      );
      for (const text of [' ', ' 5', '5 ', '0x10', '1e3', '1_000', '+5', 'Infinity', '9'.repeat(30)])
        expectFaults(command, Object.fromEntries(numbers.map(({ name }) => [name, text])), numbers);
      const times = numbers.filter(({ name }) => name.endsWith('_MS'));
      expectFaults(command, Object.fromEntries(times.map(({ name }) => [name, '86400001'])), times);
      for (const { name, schema } of times) expect(accepts(schema, '86400000'), name).to.equal(true);
    }
  });

  it('is listed by the --help of serve and load, with its defaults', async () => {
    for (const command of ['serve', 'load'] as const) {
      const { stdout } = await run(process.execPath, [MAIN, command, '--help']);
      for (const { name, schema, help } of variablesOf(command)) {
        const fallback = defaultOf(schema);
        const suffix = fallback === undefined ? '' : ` (default ${fallback})`;
        expect(stdout, command).to.include(`\n  ${name}${suffix}\n      ${help}`);
      }
    }
  });

  it('says the rule that a value breaks and what was found, for every kind of rule, and never a secret', () => {
    const faults = (env: Record<string, string>) => {
      try {
        loadServeConfig({ DATABASE_URL: 'postgres://login@host/scores', INGEST_DATA_DIR: '.', ...env });
      } catch (error) {
        return (error as Error).message;
      }
      return '';
    };
    expect(faults({ INGEST_PORT: 'zz' })).to.include('INGEST_PORT: must be a whole number (found "zz").');
    expect(faults({ INGEST_PORT: '1.5' })).to.include('INGEST_PORT: must be a whole number (found "1.5").');
    expect(faults({ INGEST_PORT: '-1' })).to.include('INGEST_PORT: must be at least 0 (found "-1").');
    expect(faults({ INGEST_PORT: '70000' })).to.include(
      'INGEST_PORT: must be at most 65535 (found "70000").',
    );
    expect(faults({ INGEST_IDLE_TIMEOUT_MS: '0' })).to.include('must be at least 1 (found "0").');
    expect(faults({ INGEST_LOG_LEVEL: 'loud' })).to.include('must be one of fatal, error, warn');
    expect(faults({ INGEST_TRUSTED_PROXIES: 'everybody' })).to.include(
      'INGEST_TRUSTED_PROXIES: must be addresses or CIDR blocks (found "everybody").',
    );
    expect(faults({ DATABASE_URL: 'mysql://login:secret@host' }))
      .to.include('DATABASE_URL')
      .and.not.include('secret');
  });
});
