import { modelNameFault, runKeyFault } from 'wire';
import { readPemFile } from './settings.ts';

/** Longest delay that Node's timers keep (2^31-1 ms); a longer one would fire at once. */
const LONGEST_TIMER_MS = 24 * 86_400_000;

type Setting<T> = {
  /** In the config file, and (dashed, with `--`) on the command line. */
  name: string;
  env: string;
  fallback: T;
  /** Throws a sentence's end ("must be ...") when the text says nothing usable. */
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
    throw new Error('must not hold a user or password; the token is given apart');
  if (url.search || url.hash) throw new Error('must not hold a ? or # part');
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

const setting = <T>(name: string, env: string, fallback: T, parse: (text: string) => T): Setting<T> => ({
  name,
  env,
  fallback,
  parse,
});

/** Every setting but the token, once: its names, its default, and how its text is read. */
export const SETTINGS = {
  url: setting<string | null>('url', 'UPLOADER_URL', null, baseUrl),
  model: setting<string | null>('model', 'UPLOADER_MODEL', null, (text) => name(text, modelNameFault)),
  run: setting<string | null>('run', 'UPLOADER_RUN', null, (text) => name(text, runKeyFault)),
  // Airflow has no logical date on an asset-triggered run, so its template may well expand to nothing.
  asOf: setting<string | null>('asOf', 'UPLOADER_AS_OF', null, (text) =>
    text.trim() === ''
      ? null
      : parsed(parseAsOf(text), 'a date (2026-11-01) or an instant with its offset (2026-11-01T06:00:00Z)'),
  ),
  ignore: setting<readonly string[]>('ignore', 'UPLOADER_IGNORE', [], globs),
  ca: setting<string | null>('ca', 'UPLOADER_CA', null, readPemFile),
  clientCert: setting<string | null>('cert', 'UPLOADER_CERT', null, readPemFile),
  clientKey: setting<string | null>('key', 'UPLOADER_KEY', null, readPemFile),
  transfers: setting('transfers', 'UPLOADER_TRANSFERS', 4, transfers),
  chunkSizeBytes: setting('chunkSize', 'UPLOADER_CHUNK_SIZE', 64 * 2 ** 20, chunkSizeBytes),
  maxDurationMs: setting('maxDuration', 'UPLOADER_MAX_DURATION', 6 * 3_600_000, (text) =>
    durationMs(text, 1),
  ),
  pollMs: setting('poll', 'UPLOADER_POLL', 5000, (text) => durationMs(text, 50)),
  stallTimeoutMs: setting('stallTimeout', 'UPLOADER_STALL_TIMEOUT', 60_000, (text) => durationMs(text, 100)),
  stateDir: setting<string | null>('stateDir', 'UPLOADER_STATE_DIR', null, (text) => text),
  bytesPerSecond: setting<number | null>('bwlimit', 'UPLOADER_BWLIMIT', null, bytesPerSecond),
  dryRun: setting('dryRun', 'UPLOADER_DRY_RUN', false, flag),
  wait: setting('wait', 'UPLOADER_WAIT', true, flag),
  requireShown: setting('requireShown', 'UPLOADER_REQUIRE_SHOWN', false, flag),
  json: setting('json', 'UPLOADER_JSON', false, flag),
};

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
