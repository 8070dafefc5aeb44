import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UploaderError } from '../results/result.ts';
import { SETTINGS } from './table.ts';

type SettingKey = keyof typeof SETTINGS;
type ParsedSettings = { [K in SettingKey]: ReturnType<(typeof SETTINGS)[K]['parse']> };
/** What a command needs that asks no service. */
type LocalSettings = Omit<ParsedSettings, 'url'>;
/** `token` is that of the start; `currentToken` reads `tokenSource` again. */
export type Settings = LocalSettings & { url: string; token: string; tokenSource: TokenSource | null };

/** Flags as commander hands them over: by setting name, only those that were given, all as text. */
export type Flags = Record<string, string>;

/**
 * Flags, then UPLOADER_* of the environment, then the config file, then the defaults. All faults are reported
 * at once, so that a first set-up takes one round and not five.
 */
export function loadSettings(flags: Flags, env: NodeJS.ProcessEnv): Settings {
  const { values, faults, config } = readValues(flags, env);
  const { url } = values;
  if (url === null && !faults.some((fault) => fault.includes('UPLOADER_URL') || fault.includes('--url'))) {
    faults.push('The address of the service is missing: set UPLOADER_URL or --url to its base address.');
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
  // Most schedulers write an empty variable for one that is not set.
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
        ? `The config file ${config.path} must not contain a token: put the token into its own file and name that file as "tokenFile".`
        : `The config file ${config.path} contains "${key}", which is not a setting; the settings are ${[...known].join(', ')}.`,
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
    return { fault: `The config file ${path} must contain one JSON object.` };
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

type TokenSource = { file: string; from: string } | { value: string; from: string };

/**
 * The token of this moment: a file is read again for each request, so that a token can be replaced during a push of hours.
 * While the file is missing or half written, the token that was read before is used.
 */
export function currentToken(source: TokenSource | null, known: string): string {
  if (!source || !('file' in source)) return known;
  const now = readToken(source);
  return 'token' in now ? now.token : known;
}

/**
 * The text of the token, or the sentence that says why it is missing. A token is never an argument's value,
 * because arguments are seen by everyone in the process list.
 */
function readToken(source: TokenSource | null): { token: string } | { fault: string } {
  if (!source) {
    return {
      fault:
        'There is no token: set UPLOADER_TOKEN, or name a file with --token-file or UPLOADER_TOKEN_FILE.',
    };
  }
  let text: string;
  if ('file' in source) {
    try {
      text = readFileSync(source.file, 'utf8');
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return { fault: `The token file of ${source.from} cannot be read: ${reason}.` };
    }
  } else {
    text = source.value;
  }
  const token = text.trim();
  // RFC 6750 §2.1: anything else would be cut or refused as a header, far from its cause.
  if (!/^[A-Za-z0-9\-._~+/]+=*$/.test(token)) {
    return { fault: `The token of ${source.from} is empty or holds characters that no token has.` };
  }
  return { token };
}
