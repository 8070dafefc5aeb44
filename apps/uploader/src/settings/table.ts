import { modelNameFault, runKeyFault } from 'wire';
import { readPemFile } from './settings.ts';

/** Longest delay that Node's timers keep (2^31-1 ms); a longer one would fire at once. */
const LONGEST_TIMER_MS = 24 * 86_400_000;

type Setting<T> = {
  /** In the config file; on the command line with dashes. */
  name: string;
  /** As commander takes it. */
  flag: string;
  help: string;
  env: string;
  /** As a caller would write it; left out, the value is null. */
  defaultText: string | undefined;
  fallback: T;
  /** Throws the end of a sentence ("must be ...") for a text that is not usable. */
  parse: (text: string) => T;
};

function parsed<T>(value: T | null, mustBe: string): T {
  if (value === null) throw new Error(`must be ${mustBe}`);
  return value;
}

function durationMs(text: string, leastMs: number): number {
  const ms = parsed(parseDurationMs(text), 'a duration such as 30s, 15m or 6h');
  if (ms < leastMs || ms > LONGEST_TIMER_MS) throw new Error(`must be between ${leastMs}ms and 24d`);
  return ms;
}

function flag(text: string): boolean {
  if (/^(1|true|yes|on)$/i.test(text)) return true;
  if (/^(0|false|no|off|)$/i.test(text)) return false;
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
  // Pieces of 64 KiB: a slower line would look like one on which nothing moves.
  const bytes = parsed(parseSizeBytes(text), 'bytes a second such as 10MB, or 0 for no limit');
  if (bytes < 16_384) throw new Error('must be at least 16KiB');
  return bytes;
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
  // new Date() turns 30 February into 1 March; a date that does not come back as it went in is none.
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

type Row<T> = { help: string; env: string; parse: (text: string) => T };

function setting<T>(flag: string, row: Row<T> & { default: string }): Setting<T>;
function setting<T>(flag: string, row: Row<T>): Setting<T | null>;
function setting<T>(flag: string, row: Row<T> & { default?: string }): Setting<T | null> {
  const [dashed = ''] = flag.replace(/^--(no-)?/, '').split(' ');
  return {
    name: dashed.replace(/-[a-z]/g, (letter) => letter.charAt(1).toUpperCase()),
    flag,
    help: row.help,
    env: row.env,
    defaultText: row.default,
    fallback: row.default === undefined ? null : row.parse(row.default),
    parse: row.parse,
  };
}

/** Every option but the token, once: its flag and help, its variable, its default, and how its text is read. */
export const SETTINGS = {
  url: setting('--url <address>', {
    env: 'UPLOADER_URL',
    help: 'base address of the service',
    parse: baseUrl,
  }),
  model: setting('--model <name>', {
    env: 'UPLOADER_MODEL',
    help: 'the model, when the folders do not name it',
    parse: (text) => name(text, modelNameFault),
  }),
  run: setting('--run <key>', {
    env: 'UPLOADER_RUN',
    help: 'the run, when the folders do not name it',
    parse: (text) => name(text, runKeyFault),
  }),
  asOf: setting<string | null>('--as-of <date>', {
    env: 'UPLOADER_AS_OF',
    help: 'date of the data; orders the runs of a model (default: the date in the run key, else the time of the push)',
    // Airflow has no logical date on an asset-triggered run, so its template may expand to nothing.
    parse: (text) =>
      text.trim() === ''
        ? null
        : parsed(parseAsOf(text), 'a date (2026-11-01) or an instant with its offset (2026-11-01T06:00:00Z)'),
  }),
  ignore: setting('--ignore <globs>', {
    env: 'UPLOADER_IGNORE',
    help: 'leave out files and folders with these names (with a slash: these paths below DIR); repeatable',
    default: '',
    parse: globs,
  }),
  ca: setting('--ca <file>', {
    env: 'UPLOADER_CA',
    help: 'PEM file of an authority to trust as well, for an https:// service',
    parse: readPemFile,
  }),
  clientCert: setting('--cert <file>', {
    env: 'UPLOADER_CERT',
    help: 'client certificate (PEM), if the service asks for one; needs --key',
    parse: readPemFile,
  }),
  clientKey: setting('--key <file>', {
    env: 'UPLOADER_KEY',
    help: 'key of the client certificate (PEM)',
    parse: readPemFile,
  }),
  transfers: setting('--transfers <count>', {
    env: 'UPLOADER_TRANSFERS',
    help: 'files sent at the same time',
    default: '4',
    parse: transfers,
  }),
  chunkSizeBytes: setting('--chunk-size <size>', {
    env: 'UPLOADER_CHUNK_SIZE',
    help: 'bytes per request',
    default: '64MiB',
    parse: chunkSizeBytes,
  }),
  maxDurationMs: setting('--max-duration <time>', {
    env: 'UPLOADER_MAX_DURATION',
    help: 'end with 75 after this time',
    default: '6h',
    parse: (text) => durationMs(text, 1),
  }),
  pollMs: setting('--poll <time>', {
    env: 'UPLOADER_POLL',
    help: 'maximum polling interval of a run',
    default: '5s',
    parse: (text) => durationMs(text, 50),
  }),
  stallTimeoutMs: setting('--stall-timeout <time>', {
    env: 'UPLOADER_STALL_TIMEOUT',
    help: 'end and retry a request that moves no byte for this time',
    default: '60s',
    parse: (text) => durationMs(text, 100),
  }),
  stateDir: setting('--state-dir <dir>', {
    env: 'UPLOADER_STATE_DIR',
    help: 'folder for known hashes; may be deleted (default: ~/.local/state/uploader)',
    parse: (text) => text,
  }),
  bytesPerSecond: setting<number | null>('--bwlimit <rate>', {
    env: 'UPLOADER_BWLIMIT',
    help: 'bytes per second of all transfers together, such as 10MB (default: no limit)',
    parse: bytesPerSecond,
  }),
  dryRun: setting('--dry-run', {
    env: 'UPLOADER_DRY_RUN',
    help: 'read and hash, say what would be sent, and send nothing',
    default: 'false',
    parse: flag,
  }),
  wait: setting('--no-wait', {
    env: 'UPLOADER_WAIT',
    help: 'end when the run is received, not when it is published',
    default: 'true',
    parse: flag,
  }),
  requireShown: setting('--require-shown', {
    env: 'UPLOADER_REQUIRE_SHOWN',
    help: 'end with 65 unless readers see this run and revision',
    default: 'false',
    parse: flag,
  }),
  json: setting('--json', {
    env: 'UPLOADER_JSON',
    help: 'print the result as the last line of stdout, in JSON',
    default: 'false',
    parse: flag,
  }),
};
