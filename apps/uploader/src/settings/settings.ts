import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UploaderError, unreadableReason } from '../errors.ts';
import { type CommandName, SETTINGS } from './table.ts';

type SettingKey = keyof typeof SETTINGS;
type ParsedSettings = { [K in SettingKey]: ReturnType<(typeof SETTINGS)[K]['parse']> };
/** For a command that sends no request. */
type LocalSettings = Omit<ParsedSettings, 'url'>;
/** `token` is that of the start; `currentToken` reads `tokenSource` again. */
export type Settings = LocalSettings & { url: string; token: string; tokenSource: TokenSource | null };

/** Flags as commander returns them: by the name of the setting, only those that the caller gave, as text. */
export type Flags = Record<string, string>;

/**
 * Flags, then UPLOADER_* of the environment, then the config file, then the defaults; of what the command does not have,
 * the defaults. All faults are reported at once, so that a first set-up takes one round and not five.
 */
export function loadSettings(command: CommandName, flags: Flags, env: NodeJS.ProcessEnv): Settings {
  const { values, faults, config } = readValues(command, flags, env);
  const { url } = values;
  if (url === null && !faults.some((fault) => fault.includes('UPLOADER_URL') || fault.includes('--url'))) {
    faults.push('The address of the service is missing: set UPLOADER_URL or --url to its base address.');
  }
  faults.push(...unpairedFaults(flags, env, config));
  const tokenSource = findToken(flags, env, config);
  const token = readToken(tokenSource);
  if ('fault' in token) faults.push(token.fault);
  if (faults.length > 0 || 'fault' in token || url === null) {
    throw new UploaderError('usage', faults.join('\n'));
  }
  return { ...values, url, token: token.token, tokenSource };
}

/** The same for a command that sends no request: without address and token. */
export function loadLocalSettings(command: CommandName, flags: Flags, env: NodeJS.ProcessEnv): LocalSettings {
  const { values, faults } = readValues(command, flags, env);
  if (faults.length > 0) throw new UploaderError('usage', faults.join('\n'));
  return values;
}

/** Whether the result is wanted as JSON; also known when another setting is at fault. */
export function wantsJson(flags: Flags, env: NodeJS.ProcessEnv): boolean {
  const read = readConfigFile(flags, env);
  const given = find(SETTINGS.json, flags, env, read && 'values' in read ? read : null);
  try {
    return given !== null && SETTINGS.json.parse(given.text);
  } catch {
    return false;
  }
}

function readValues(command: CommandName, flags: Flags, env: NodeJS.ProcessEnv) {
  const faults: string[] = [];
  const read = readConfigFile(flags, env);
  const config = read && 'values' in read ? read : null;
  if (read && 'fault' in read) faults.push(read.fault);
  if (config) faults.push(...unknownKeyFaults(config));

  const values: Record<string, unknown> = {};
  for (const [key, setting] of Object.entries(SETTINGS)) {
    const isRefused = setting.refusedBy.includes(command);
    const has = isRefused || setting.commands.includes(command);
    const given = has ? find(setting, flags, env, config) : null;
    const text = given?.text ?? setting.default;
    values[key] = null;
    if (text === undefined) continue;
    try {
      values[key] = setting.parse(text);
      if (isRefused && values[key] === true)
        faults.push(
          `${given?.from} is set, and uploader ${command} has no ${setting.flag}: nothing was done. Unset it, or set ${setting.env}=false for this command.`,
        );
    } catch (error) {
      const mustBe = error instanceof Error ? error.message : String(error);
      faults.push(`${given?.from} ${mustBe} (it is ${shown(text)}).`);
    }
  }
  // Each value comes from its own row of the table, and so does its type.
  return { values: values as ParsedSettings, faults, config };
}

/** Without the user and password of an address: they are rejected, and must not be printed. */
function shown(text: string): string {
  return JSON.stringify(text.replace(/\/\/[^/]*@/, '//…@'));
}

/** What the caller gave for a setting, and where. */
function find(
  { name, flag, env: variable, inConfigFile }: (typeof SETTINGS)[SettingKey],
  flags: Flags,
  env: NodeJS.ProcessEnv,
  config: ConfigFile | null,
): { text: string; from: string } | null {
  const fromFlag = flags[name];
  if (fromFlag !== undefined) return { text: fromFlag, from: flag.split(' ')[0] ?? flag };
  // Most schedulers write an empty variable for one that is not set.
  const fromEnv = env[variable];
  if (fromEnv) return { text: fromEnv, from: variable };
  const value = inConfigFile ? config?.values[name] : undefined;
  if (value === undefined || value === null || value === '') return null;
  return { text: String(value), from: `"${name}" in ${config?.path}` };
}

/** One half of the client's identity would be ignored. */
function unpairedFaults(flags: Flags, env: NodeJS.ProcessEnv, config: ConfigFile | null): string[] {
  const cert = find(SETTINGS.clientCert, flags, env, config);
  const key = find(SETTINGS.clientKey, flags, env, config);
  if (cert && !key) return [`${cert.from} needs the key of the certificate: set --key or UPLOADER_KEY.`];
  if (key && !cert) return [`${key.from} needs the certificate of the key: set --cert or UPLOADER_CERT.`];
  return [];
}

/** A --token-file overrides UPLOADER_TOKEN, which overrides the other places that name a file. */
function findToken(flags: Flags, env: NodeJS.ProcessEnv, config: ConfigFile | null): TokenSource | null {
  if (env.UPLOADER_TOKEN && flags.tokenFile === undefined)
    return { value: env.UPLOADER_TOKEN, from: 'UPLOADER_TOKEN' };
  const file = find(SETTINGS.tokenFile, flags, env, config);
  return file && { file: file.text, from: file.from };
}

function unknownKeyFaults(config: ConfigFile): string[] {
  const known = Object.values(SETTINGS).flatMap(({ name, inConfigFile }) => (inConfigFile ? [name] : []));
  return Object.keys(config.values)
    .filter((key) => !known.includes(key))
    .map((key) =>
      key === 'token'
        ? `The config file ${config.path} must not contain a token: put the token into its own file and name that file as "tokenFile".`
        : `The config file ${config.path} contains "${key}", which is not a setting of it; the settings are ${known.join(', ')}.`,
    );
}

type ConfigFile = { path: string; values: Record<string, unknown> };

/**
 * The JSON object of the config file. One that --config or UPLOADER_CONFIG names must exist; else it is the
 * file in the config folder of the user, if that exists. Returns the fault as a sentence.
 */
function readConfigFile(flags: Flags, env: NodeJS.ProcessEnv): ConfigFile | { fault: string } | null {
  const named = find(SETTINGS.config, flags, env, null)?.text;
  const configHome = env.XDG_CONFIG_HOME || (env.HOME ? join(env.HOME, '.config') : null);
  const path = named ?? (configHome ? join(configHome, 'uploader', 'config.json') : null);
  if (path === null) return null;
  let text: string;
  try {
    text = readFileSync(path, 'utf8').replace(/^\ufeff/, '');
  } catch (error) {
    // ENOTDIR: accounts of services have homes such as /dev/null.
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (named === undefined && (code === 'ENOENT' || code === 'ENOTDIR')) return null;
    return { fault: `The config file ${path} ${unreadableReason(error).replace(/^it /, '')}.` };
  }
  try {
    const values: unknown = JSON.parse(text);
    if (values && typeof values === 'object' && !Array.isArray(values)) {
      return { path, values: { ...values } };
    }
  } catch (error) {
    return { fault: `The config file ${path} is not JSON${placeOf(error, text)}. ${CONFIG_RULE}` };
  }
  return { fault: `The config file ${path} must contain one JSON object. ${CONFIG_RULE}` };
}

const CONFIG_RULE =
  'It must be one object such as {"url": "https://ingest.example.com", "transfers": 8}, with double quotes, without comments, and without a comma behind the last entry.';

/** Where JSON.parse stopped, as far as its message says: the position, or only the character. */
function placeOf(error: unknown, text: string): string {
  if (text.trim() === '') return ': it is empty';
  const message = error instanceof Error ? error.message : '';
  const position = /position (\d+)/.exec(message)?.[1];
  if (position !== undefined && Number(position) < text.trimEnd().length) {
    const before = text.slice(0, Number(position)).split('\n');
    const found = text.slice(Number(position)).slice(0, 20).split('\n', 1)[0] ?? '';
    return `: line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}, at ${JSON.stringify(found)}`;
  }
  const character = /^Unexpected token '(.+?)'/.exec(message)?.[1];
  return character === undefined ? ': it ends too early' : `: ${JSON.stringify(character)} is not expected`;
}

type TokenSource = { file: string; from: string } | { value: string; from: string };

/**
 * The token of this moment: a file is read again for each request, so that a token can be replaced during a
 * push of hours. While the file is missing or half written, the token that was read before is used.
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
      const reason = unreadableReason(error).replace(/^it /, '');
      return { fault: `The token file ${source.file} of ${source.from} ${reason}.` };
    }
  } else {
    text = source.value;
  }
  const token = text.trim();
  // RFC 6750 §2.1: other characters would fail later, as a header, where the cause is hard to see.
  if (!/^[A-Za-z0-9\-._~+/]+=*$/.test(token)) {
    return { fault: `The token of ${source.from} is empty or contains characters that a token cannot have.` };
  }
  return { token };
}
