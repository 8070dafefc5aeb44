import { readFileSync } from 'node:fs';
import { certificatesFault, modelNameFault, runKeyFault } from 'wire';

export type CommandName = 'push' | 'check' | 'watch' | 'status' | 'publish' | 'retry' | 'withdraw';

type Setting<T> = {
  /** Its key in the config file, and in what commander passes to a command. */
  name: string;
  /** As commander takes it. */
  flag: string;
  /** Of any other command it keeps its default, whatever environment and config file say. */
  commands: readonly CommandName[];
  /** These do not have it, and end with 2 where it is set: ignored, it would let them do what it prevents. */
  refusedBy: readonly CommandName[];
  env: string;
  /** false: it cannot be set in the config file. */
  inConfigFile: boolean;
  help: string;
  /** As a user would write it; without it the value is null. */
  default: string | undefined;
  /** What a null means, for the reader of the help. */
  without: string | undefined;
  /** Each use of the flag adds to a list, separated by commas. */
  repeatable: boolean;
  /** Throws the end of a sentence ("must be ...") for a text that is not usable. */
  parse: (text: string) => T;
};

const SENDING: readonly CommandName[] = ['push', 'watch'];
const READING: readonly CommandName[] = ['push', 'check', 'watch'];
const ASKING: readonly CommandName[] = ['push', 'watch', 'status', 'publish', 'retry', 'withdraw'];
const WAITING: readonly CommandName[] = ['push', 'watch', 'status', 'retry'];
const ALL: readonly CommandName[] = [...ASKING, 'check'];

/**
 * Every setting of the program: help texts, variables, keys of the config file and the table in
 * docs/uploader.md (Settings) are made from it or tested against it. Only the token itself is not here: it is
 * never an argument.
 */
export const SETTINGS = {
  model: setting('--model <name>', {
    commands: READING,
    env: 'UPLOADER_MODEL',
    help: 'the model, when the folders do not name it',
    parse: (text) => name(text, modelNameFault),
  }),
  run: setting('--run <key>', {
    commands: READING,
    env: 'UPLOADER_RUN',
    help: 'the run, when the folders do not name it',
    parse: (text) => name(text, runKeyFault),
  }),
  ignore: setting('--ignore <globs>', {
    commands: READING,
    env: 'UPLOADER_IGNORE',
    help: 'leave out files and folders with these names (with a slash: these paths below DIR); repeatable',
    default: '',
    repeatable: true,
    parse: globs,
  }),
  asOf: setting<string | null>('--as-of <date>', {
    commands: SENDING,
    env: 'UPLOADER_AS_OF',
    help: 'date of the data; orders the runs of a model',
    without: 'the date in the run key, else the time of the push',
    // Airflow has no logical date on an asset-triggered run, so its template may expand to nothing.
    parse: (text) =>
      text.trim() === ''
        ? null
        : parsed(parseAsOf(text), 'a date (2026-11-01) or an instant with its offset (2026-11-01T06:00:00Z)'),
  }),
  transfers: setting('--transfers <count>', {
    commands: SENDING,
    env: 'UPLOADER_TRANSFERS',
    help: 'files sent at the same time',
    default: '4',
    parse: transfers,
  }),
  chunkSizeBytes: setting('--chunk-size <size>', {
    commands: SENDING,
    env: 'UPLOADER_CHUNK_SIZE',
    help: 'bytes per request',
    default: '64MiB',
    parse: chunkSizeBytes,
  }),
  compress: setting('--compress <how>', {
    commands: SENDING,
    env: 'UPLOADER_COMPRESS',
    help: 'compress on the way: auto (when the connection is the bottleneck), zstd, or off',
    default: 'auto',
    parse: compress,
  }),
  bytesPerSecond: setting<number | null>('--bwlimit <rate>', {
    commands: SENDING,
    env: 'UPLOADER_BWLIMIT',
    help: 'bytes per second of all transfers together, such as 10MB',
    without: 'no limit',
    parse: bytesPerSecond,
  }),
  stateDir: setting('--state-dir <dir>', {
    commands: SENDING,
    env: 'UPLOADER_STATE_DIR',
    help: 'folder for known hashes; may be deleted',
    without: '$XDG_STATE_HOME/uploader, else ~/.local/state/uploader',
    parse: (text) => text,
  }),
  wait: setting('--no-wait', {
    commands: ['push', 'watch', 'retry'],
    env: 'UPLOADER_WAIT',
    help: 'do not wait until the run is published',
    default: 'true',
    parse: flag,
  }),
  requireShown: setting('--require-shown', {
    commands: ['push', 'status'],
    env: 'UPLOADER_REQUIRE_SHOWN',
    help: 'end with 65 unless readers see this run and revision',
    default: 'false',
    parse: flag,
  }),
  dryRun: setting('--dry-run', {
    commands: ['push'],
    refusedBy: ['watch', 'publish', 'retry', 'withdraw'],
    env: 'UPLOADER_DRY_RUN',
    help: 'read and hash, say what would be sent, and send nothing',
    default: 'false',
    parse: flag,
  }),
  json: setting('--json', {
    commands: ALL,
    env: 'UPLOADER_JSON',
    help: 'print the result as the last line of stdout, in JSON (watch: one line per run)',
    default: 'false',
    parse: flag,
  }),
  resultFile: setting('--result-file <file>', {
    commands: ALL.filter((command) => command !== 'watch'),
    env: 'UPLOADER_RESULT_FILE',
    // The result is also written when the config file is at fault.
    inConfigFile: false,
    help: 'also write the result to this file, in JSON',
    parse: (text) => text,
  }),
  url: setting('--url <address>', {
    commands: ASKING,
    env: 'UPLOADER_URL',
    help: 'base address of the service',
    parse: baseUrl,
  }),
  tokenFile: setting('--token-file <file>', {
    commands: ASKING,
    env: 'UPLOADER_TOKEN_FILE',
    help: 'file that holds the token',
    parse: (text) => text,
  }),
  ca: setting('--ca <file>', {
    commands: ASKING,
    env: 'UPLOADER_CA',
    help: 'PEM file of an authority to trust as well, for an https:// service',
    parse: readCertificates,
  }),
  clientCert: setting('--cert <file>', {
    commands: ASKING,
    env: 'UPLOADER_CERT',
    help: 'client certificate (PEM), if the service asks for one; needs --key',
    parse: readCertificates,
  }),
  clientKey: setting('--key <file>', {
    commands: ASKING,
    env: 'UPLOADER_KEY',
    help: 'key of the client certificate (PEM)',
    parse: readPemFile,
  }),
  maxDurationMs: setting('--max-duration <time>', {
    commands: ASKING,
    env: 'UPLOADER_MAX_DURATION',
    help: 'end with 75 after this time',
    default: '6h',
    parse: (text) => durationMs(text, 1),
  }),
  stallTimeoutMs: setting('--stall-timeout <time>', {
    commands: ASKING,
    env: 'UPLOADER_STALL_TIMEOUT',
    help: 'end and retry a request that moves no byte for this time',
    default: '60s',
    parse: (text) => durationMs(text, 100),
  }),
  pollMs: setting('--poll <time>', {
    commands: WAITING,
    env: 'UPLOADER_POLL',
    help: 'maximum polling interval of a run',
    default: '5s',
    parse: (text) => durationMs(text, 50),
  }),
  config: setting('--config <file>', {
    commands: ALL,
    env: 'UPLOADER_CONFIG',
    inConfigFile: false,
    help: 'config file, one JSON object',
    without: '$XDG_CONFIG_HOME/uploader/config.json, else ~/.config/uploader/config.json',
    parse: (text) => text,
  }),
};

type Row<T> = {
  commands: readonly CommandName[];
  refusedBy?: readonly CommandName[];
  env: string;
  help: string;
  parse: (text: string) => T;
  inConfigFile?: boolean;
  without?: string;
  repeatable?: boolean;
};

/** Without a default the value may be null. */
function setting<T>(flag: string, row: Row<T> & { default: string }): Setting<T>;
function setting<T>(flag: string, row: Row<T>): Setting<T | null>;
function setting<T>(flag: string, row: Row<T> & { default?: string }): Setting<T> {
  const [dashed = ''] = flag.replace(/^--(no-)?/, '').split(' ');
  const name = dashed.replace(/-[a-z]/g, (letter) => letter.charAt(1).toUpperCase());
  const { refusedBy = [], inConfigFile = true, without, repeatable = false, default: text } = row;
  return { ...row, refusedBy, name, flag, inConfigFile, without, repeatable, default: text };
}

function parsed<T>(value: T | null, mustBe: string): T {
  if (value === null) throw new Error(`must be ${mustBe}`);
  return value;
}

/** Longest delay that Node's timers keep (2^31-1 ms); a longer one would fire at once. */
const LONGEST_TIMER_MS = 24 * 86_400_000;

function durationMs(text: string, leastMs: number): number {
  const ms = parsed(parseDurationMs(text), 'a duration such as 30s, 15m or 6h');
  if (ms < leastMs || ms > LONGEST_TIMER_MS) throw new Error(`must be between ${leastMs}ms and 24d`);
  return ms;
}

function flag(text: string): boolean {
  if (/^(1|true|yes|on)$/i.test(text)) return true;
  if (/^(0|false|no|off)$/i.test(text)) return false;
  throw new Error('must be true or false');
}

function baseUrl(text: string): string {
  const url = parsed(URL.parse(text), 'an address such as https://ingest.example.com');
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw new Error('must start with https:// or http://');
  if (url.username || url.password)
    throw new Error('must not contain a user or password; the token is a separate setting');
  if (url.search || url.hash) throw new Error('must not contain a ? or # part');
  return url.origin + url.pathname.replace(/\/+$/, '');
}

function name(text: string, fault: (text: string) => string | null): string {
  const sentence = fault(text);
  if (sentence) throw new Error(`is not usable: ${sentence}`);
  return text;
}

function transfers(text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 64)
    throw new Error('must be a whole number from 1 to 64');
  return count;
}

function compress(text: string): 'auto' | 'zstd' | 'off' {
  if (text !== 'auto' && text !== 'zstd' && text !== 'off') throw new Error('must be auto, zstd or off');
  return text;
}

function chunkSizeBytes(text: string): number {
  const bytes = parsed(parseSizeBytes(text), 'a size such as 64MiB');
  if (bytes < 65_536) throw new Error('must be at least 64KiB');
  return bytes;
}

/** A comma within braces belongs to its glob: `*.{csv,txt}`. */
function globs(text: string): readonly string[] {
  return text
    .split(/[\n,](?![^{]*\})/)
    .map((glob) => glob.trim())
    .filter((glob) => glob !== '');
}

function bytesPerSecond(text: string): number | null {
  if (/^(0|off)$/.test(text.trim())) return null;
  // Files are read in pieces of 64 KiB: below this rate a healthy transfer would look stalled.
  const bytes = parsed(parseSizeBytes(text), 'bytes a second such as 10MB, or 0 for no limit');
  if (bytes < 16_384) throw new Error('must be at least 16KiB');
  return bytes;
}

/** The text of a PEM file of certificates. */
function readCertificates(path: string): string {
  const text = readPemFile(path);
  const fault = certificatesFault(text);
  if (fault !== null) throw new Error(fault);
  return text;
}

/** The text of a PEM file. */
function readPemFile(path: string): string {
  let text = '';
  try {
    text = readFileSync(path, 'utf8');
  } catch {
    throw new Error('must be the path of a PEM file that can be read');
  }
  if (!text.includes('-----BEGIN ')) throw new Error('must be a PEM file (-----BEGIN …)');
  return text;
}

const DATE = /^\d{4}-\d{2}-\d{2}$/;
// Airflow's {{ logical_date }} prints a space where ISO 8601 has a T.
const INSTANT = /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})$/i;

/** A date (midnight UTC) or an instant with its offset, as an ISO string; null when it is neither. */
export function parseAsOf(text: string): string | null {
  const trimmed = text.trim();
  if (!DATE.test(trimmed) && !INSTANT.test(trimmed)) return null;
  const instant = new Date(trimmed.replace(' ', 'T'));
  if (Number.isNaN(instant.getTime())) return null;
  // new Date() turns 30 February into 1 March; a date that reads differently afterwards does not exist.
  if (new Date(`${trimmed.slice(0, 10)}T00:00:00Z`).toISOString().slice(0, 10) !== trimmed.slice(0, 10)) {
    return null;
  }
  return instant.toISOString();
}

const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `6h`, `90s`, `250ms`, `1h30m` as milliseconds; null when it is not a duration (a bare number is none). */
export function parseDurationMs(text: string): number | null {
  const trimmed = text.trim();
  if (!/^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$/.test(trimmed)) return null;
  let totalMs = 0;
  for (const [, amount, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)) {
    totalMs += Number(amount) * (UNIT_MS[unit ?? ''] ?? 0);
  }
  return totalMs;
}

const UNIT_BYTES: Record<string, number> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
};

/** `64MiB`, `64M`, `67108864`, `1.5GB` as whole bytes; null when it is not a size. */
export function parseSizeBytes(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const unitBytes = UNIT_BYTES[match?.[2]?.toLowerCase() ?? 'none'];
  if (!match || unitBytes === undefined) return null;
  return Math.round(Number(match[1]) * unitBytes);
}
