import type { Run, RunState } from './api.ts';
import { html, type TemplateResult } from './vendor/lit-html.js';

/** Each state has a sign and a word besides its colour, which not everybody sees. */
const STATES_SHOWN: Readonly<Record<RunState, { readonly sign: string; readonly meaning: string }>> = {
  receiving: { sign: '↓', meaning: 'files are being uploaded' },
  queued: { sign: '…', meaning: 'all files are received; the run waits for a loader' },
  loading: { sign: '▶', meaning: 'a loader is loading the run into the database' },
  published: { sign: '✓', meaning: 'loaded; readers see this run' },
  superseded: { sign: '○', meaning: 'loaded; readers see another run, or another revision of this one' },
  held: {
    sign: '‖',
    meaning: 'loaded, but not published: it breaks a quality gate, and an operator must decide',
  },
  failed: { sign: '✕', meaning: 'not loaded: the data was rejected' },
  cancelled: { sign: '–', meaning: 'withdrawn, expired, or replaced before it was loaded' },
};

export const STATES = Object.keys(STATES_SHOWN) as RunState[];

export function signOf(state: RunState): string {
  return STATES_SHOWN[state].sign;
}

export function meaningOf(state: RunState): string {
  return STATES_SHOWN[state].meaning;
}

export function stateBadge(state: RunState): TemplateResult {
  return html`<span class="badge" data-state=${state} title=${meaningOf(state)}
    ><span aria-hidden="true">${signOf(state)}</span> ${state}</span
  >`;
}

export const STEPS: Readonly<Record<NonNullable<Run['progress']>['step'], string>> = {
  receiving: 'Receiving files',
  copying: 'Copying rows',
  building_key: 'Building the primary key',
  attaching: 'Attaching the partition',
  publishing: 'Publishing',
};

export function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function formatValue(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

export function formatCount(count: number): string {
  return count.toLocaleString('en-US');
}

export function percent(done: number, total: number): number {
  return total === 0 ? 100 : Math.floor((100 * done) / total);
}

export function formatScore(score: number | null): string {
  return score === null ? '–' : Number(score.toPrecision(5)).toString();
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** 0.4 s, 2 min 10 s, 3 h 5 min, 2 d 4 h. */
export function formatSeconds(seconds: number): string {
  if (seconds > 0 && seconds < 0.05) return '< 0.1 s';
  if (seconds > 0 && seconds < 9.95) return `${Number(seconds.toFixed(1))} s`;
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  const minutes = Math.floor(total / 60);
  if (minutes < 60) return total % 60 === 0 ? `${minutes} min` : `${minutes} min ${total % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  return hours % 24 === 0 ? `${Math.floor(hours / 24)} d` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function secondsBetween(from: string, to: string): number {
  return (Date.parse(to) - Date.parse(from)) / 1000;
}

/** One unit: 40 s ago, 11 min ago, 3 h ago, 24 d ago. */
export function formatAgo(instant: string, nowMs: number): string {
  const seconds = (nowMs - Date.parse(instant)) / 1000;
  return seconds < 2 ? 'now' : `${formatSpan(seconds)} ago`;
}

export function formatSpan(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 48 * 3600 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86_400)} d`;
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** @param month since January, which is 0; of any year. */
export function monthName(month: number): string {
  return MONTHS[month % 12] ?? '';
}

export function formatDay(instant: string): string {
  const at = new Date(instant);
  return `${at.getUTCDate()} ${monthName(at.getUTCMonth())} ${at.getUTCFullYear()}`;
}

/** To the minute, in UTC. */
export function formatMinute(instant: string): string {
  return `${formatDay(instant)}, ${new Date(instant).toISOString().slice(11, 16)} UTC`;
}

export function formatInstant(instant: string): string {
  return `${formatDay(instant)}, ${new Date(instant).toISOString().slice(11, 19)} UTC`;
}

const localInstant = new Intl.DateTimeFormat('en-GB', {
  year: 'numeric',
  month: 'short',
  day: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  timeZoneName: 'longOffset',
});
const TIME_ZONE = localInstant.resolvedOptions().timeZone;

function formatLocal(instant: string): string {
  return `${localInstant.format(new Date(instant))} (${TIME_ZONE})`;
}

/** In UTC; the tooltip has the reader's own time zone. */
export function time(instant: string, format = formatInstant): TemplateResult {
  return html`<time datetime=${instant} title=${formatLocal(instant)}>${format(instant)}</time>`;
}

export function ago(instant: string, nowMs: number): TemplateResult {
  return html`<time datetime=${instant} title=${`${formatInstant(instant)} · ${formatLocal(instant)}`}
    >${formatAgo(instant, nowMs)}</time
  >`;
}

/** The date of the data, in UTC as the months of the overview; with the time if it is not midnight. */
export function formatAsOf(instant: string): string {
  return Date.parse(instant) % 86_400_000 === 0 ? formatDay(instant) : formatMinute(instant);
}

/** churn_2 comes before churn_10. */
export const inNaturalOrder = new Intl.Collator('en', { numeric: true }).compare;

/** Cut in its middle: the ends of names tell them apart. */
export function shortened(name: string, longest: number): string {
  if (name.length <= longest) return name;
  const head = Math.ceil((longest - 1) / 2);
  return `${name.slice(0, head)}…${name.slice(name.length - (longest - 1 - head))}`;
}
