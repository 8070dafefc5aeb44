import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UploaderError } from '../results/result.ts';
import { SETTINGS } from './table.ts';
import { readToken, type TokenSource } from './token.ts';

type SettingKey = keyof typeof SETTINGS;
type ParsedSettings = { [K in SettingKey]: ReturnType<(typeof SETTINGS)[K]['parse']> };
/** What a command needs that asks no service. */
type LocalSettings = Omit<ParsedSettings, 'url'>;
/** `token` is that of the start; `currentToken` reads `tokenSource` again. */
export type Settings = LocalSettings & { url: string; token: string; tokenSource: TokenSource | null };

/** Flags as commander hands them over: by setting name, only those that were given, all as text. */
export type Flags = Record<string, string>;

/**
 * Flags, then UPLOADER_* of the environment, then the config file, then the defaults. All faults are told
 * at once, so that a first set-up takes one round and not five.
 */
export function loadSettings(flags: Flags, env: NodeJS.ProcessEnv): Settings {
  const { values, faults, config } = readValues(flags, env);
  const { url } = values;
  if (url === null && !faults.some((fault) => fault.includes('UPLOADER_URL') || fault.includes('--url'))) {
    faults.push(
      "There is no service address: set UPLOADER_URL, or give --url, to the ingest service's base address.",
    );
  }
  const tokenSource = findToken(flags, env, config);
  const token = readToken(tokenSource);
  if ('fault' in token) faults.push(token.fault);
  if (faults.length > 0 || 'fault' in token || url === null) {
    throw new UploaderError('usage', faults.join('\n'));
  }
  return { ...values, url, token: token.token, tokenSource };
}

/** The same without address and token. */
export function loadLocalSettings(flags: Flags, env: NodeJS.ProcessEnv): LocalSettings {
  const { values, faults } = readValues(flags, env);
  if (faults.length > 0) throw new UploaderError('usage', faults.join('\n'));
  return values;
}

function readValues(flags: Flags, env: NodeJS.ProcessEnv) {
  const faults: string[] = [];
  const read = readConfigFile(flags.config ?? (env.UPLOADER_CONFIG || undefined), env);
  const config = read && 'values' in read ? read : null;
  if (read && 'fault' in read) faults.push(read.fault);
  if (config) faults.push(...unknownKeyFaults(config));

  const values: Record<string, unknown> = {};
  for (const [key, setting] of Object.entries(SETTINGS)) {
    const given = find(setting.name, setting.env, flags, env, config);
    values[key] = setting.fallback;
    if (!given) continue;
    try {
      values[key] = setting.parse(given.text);
    } catch (error) {
      const mustBe = error instanceof Error ? error.message : String(error);
      faults.push(`${given.from} ${mustBe} (it is ${shown(given.text)}).`);
    }
  }
  // Each value came from its own row of the table, which is where its type comes from too.
  return { values: values as ParsedSettings, faults, config };
}

/** Without the user and password of an address, which are refused but must not be printed either. */
function shown(text: string): string {
  return JSON.stringify(text.replace(/\/\/[^/]*@/, '//…@'));
}

function find(
  name: string,
  envName: string,
  flags: Flags,
  env: NodeJS.ProcessEnv,
  config: ConfigFile | null,
) {
  const dashed = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  const flag = flags[name];
  if (flag !== undefined) return { text: flag, from: dashed };
  // A variable that is set to nothing is how most schedulers say "not set".
  const variable = env[envName];
  if (variable) return { text: variable, from: envName };
  const value = config?.values[name];
  if (value === undefined || value === null) return null;
  return { text: String(value), from: `"${name}" in ${config?.path}` };
}

function findToken(flags: Flags, env: NodeJS.ProcessEnv, config: ConfigFile | null): TokenSource | null {
  if (flags.tokenFile !== undefined) return { file: flags.tokenFile, from: '--token-file' };
  if (env.UPLOADER_TOKEN) return { value: env.UPLOADER_TOKEN, from: 'UPLOADER_TOKEN' };
  if (env.UPLOADER_TOKEN_FILE) return { file: env.UPLOADER_TOKEN_FILE, from: 'UPLOADER_TOKEN_FILE' };
  const file = config?.values.tokenFile;
  return typeof file === 'string' ? { file, from: `"tokenFile" in ${config?.path}` } : null;
}

function unknownKeyFaults(config: ConfigFile): string[] {
  const known = new Set<string>([...Object.values(SETTINGS).map((setting) => setting.name), 'tokenFile']);
  return Object.keys(config.values)
    .filter((key) => !known.has(key))
    .map((key) =>
      key === 'token'
        ? `The config file ${config.path} must not hold a token: put it into a file of its own and name that as "tokenFile".`
        : `The config file ${config.path} holds "${key}", which is no setting; there are ${[...known].join(', ')}.`,
    );
}

type ConfigFile = { path: string; values: Record<string, unknown> };

/**
 * The JSON object of the config file: the one asked for, which must be there, else the one in the user's
 * config folder, which need not. Returns the fault as a sentence.
 */
function readConfigFile(
  askedFor: string | undefined,
  env: NodeJS.ProcessEnv,
): ConfigFile | { fault: string } | null {
  const configHome = env.XDG_CONFIG_HOME || (env.HOME ? join(env.HOME, '.config') : null);
  const path = askedFor ?? (configHome ? join(configHome, 'uploader', 'config.json') : null);
  if (path === null) return null;
  try {
    const values: unknown = JSON.parse(readFileSync(path, 'utf8'));
    if (values && typeof values === 'object' && !Array.isArray(values)) {
      return { path, values: { ...values } };
    }
    return { fault: `The config file ${path} must hold one JSON object.` };
  } catch (error) {
    // ENOTDIR: accounts of services have homes such as /dev/null.
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (askedFor === undefined && (code === 'ENOENT' || code === 'ENOTDIR')) return null;
    const reason = error instanceof Error ? error.message : String(error);
    return { fault: `The config file ${path} cannot be read: ${reason}.` };
  }
}

/** The text of a PEM file. Throws a sentence's end, as all settings do. */
export function readPemFile(path: string): string {
  let text = '';
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    throw new Error('must be the path of a PEM file that can be read');
  }
  if (!text.includes('-----BEGIN ')) throw new Error('must be a PEM file (-----BEGIN …)');
  return text;
}
