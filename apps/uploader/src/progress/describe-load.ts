import type { Run } from '../service/run-schema.ts';
import { formatBytes, formatCount } from './format.ts';

type Load = NonNullable<Run['load']>;

const KEY_STEPS: Record<string, string> = {
  scanning: 'reading the rows',
  sorting: 'sorting',
  writing: 'writing the index',
};

/** What the loader does with the run, and how far it is. */
export function describeLoad(load: Load, totalBytes: number): string {
  const attempt = load.attempt && load.attempt > 1 ? ` (attempt ${load.attempt})` : '';
  if (!load.phase) return `queued in the service${attempt}`;
  const bytes = load.phase === 'copying' && load.bytes ? [formatBytesOf(load.bytes, totalBytes)] : [];
  const rows = load.rows ? [formatCount(load.rows, 'row')] : [];
  return [`loading${attempt}: ${describePhase(load.phase, load.keyBuild)}`, ...bytes, ...rows].join(', ');
}

function describePhase(phase: string, keyBuild: Load['keyBuild']): string {
  const step = phase === 'building_key' && keyBuild ? ` (${KEY_STEPS[keyBuild.step] ?? keyBuild.step})` : '';
  return `${phase.replaceAll('_', ' ')}${step}`;
}

function formatBytesOf(bytes: number, totalBytes: number): string {
  return `${formatBytes(bytes)} of ${formatBytes(totalBytes)}`;
}

/** The share of its phase that is done, in whatever it counts; null where nothing can be counted. */
export function loadShare(load: Load, totalBytes: number): { done: number; total: number } | null {
  if (load.phase === 'copying') return { done: load.bytes ?? 0, total: totalBytes };
  if (load.phase === 'building_key') return load.keyBuild?.total ? load.keyBuild : null;
  return { done: 1, total: 1 };
}
