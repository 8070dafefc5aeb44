import type { WriteStream } from 'node:tty';
import type { RunState } from 'wire';
import { UploaderError } from '../errors.ts';
import { EXIT_CODE_OF_STATE, type Run } from '../service/client.ts';
import type { HashedFile } from '../source/hash.ts';

export type FileView = { name: string; totalBytes: number; sentBytes: number };

/** The progress of one run: the push writes it, the reporters read it. */
export type RunView = {
  label: string;
  stage: 'waiting' | 'checking' | 'hashing' | 'declaring' | 'sending' | 'in_service' | 'done';
  totalBytes: number;
  hashedBytes: number;
  /** Bytes that the service has, by its last answer. */
  receivedBytes: number;
  /** Of the files, given to the network by this process. */
  sentBytes: number;
  /** What they were on the network: fewer, where they were compressed. */
  wireBytes: number;
  filesTotal: number;
  filesReceived: number;
  /** Being sent right now; `sentBytes` counts from the file's start. */
  active: Map<string, FileView>;
  load: Run['load'];
  progress: Run['progress'];
  revision: number | null;
  serviceState: RunState | null;
};

/** `watch` adds runs, and takes them out when they have ended. */
export type PushView = { startedAtMs: number; runs: RunView[] };

export function newRunView(label: string, filesTotal: number): RunView {
  return {
    label,
    stage: 'waiting',
    totalBytes: 0,
    hashedBytes: 0,
    receivedBytes: 0,
    sentBytes: 0,
    wireBytes: 0,
    filesTotal,
    filesReceived: 0,
    active: new Map(),
    load: null,
    progress: null,
    revision: null,
    serviceState: null,
  };
}

/** The bytes that the service has, and those that the running transfers have sent. */
export function bytesThere(view: RunView): number {
  let bytes = view.receivedBytes;
  for (const file of view.active.values()) bytes += file.sentBytes;
  return Math.min(bytes, view.totalBytes);
}

/** One run in one line, without its label. */
export function describeRun(view: RunView, bytesPerSecond: number): string {
  const words = describeStage(view);
  switch (view.stage) {
    case 'checking':
    case 'hashing':
      return `${words} (${formatPercent(view.hashedBytes, view.totalBytes)})`;
    case 'sending': {
      const there = bytesThere(view);
      const left =
        bytesPerSecond > 0
          ? `, ${formatDuration(((view.totalBytes - there) / bytesPerSecond) * 1000)} left`
          : '';
      return `${words} (${formatPercent(there, view.totalBytes)}), ${formatBytes(bytesPerSecond)}/s${left}`;
    }
    default:
      return view.stage === 'in_service' && view.load ? `${words}${untilPublished(view)}` : words;
  }
}

/** What happens to the run, and how much of it is done; without share, rate and time. */
export function describeStage(view: RunView): string {
  const total = formatBytes(view.totalBytes);
  switch (view.stage) {
    case 'waiting':
      return 'waiting for its turn';
    case 'checking':
      return `checking ${formatBytes(view.hashedBytes)} of ${total}`;
    case 'hashing':
      return `reading ${formatBytes(view.hashedBytes)} of ${total}`;
    case 'declaring':
      return 'declaring its files to the service';
    case 'sending': {
      const files = view.filesTotal > 1 ? `${view.filesReceived} of ${view.filesTotal} files, ` : '';
      return `sending ${files}${formatBytes(bytesThere(view))} of ${total}`;
    }
    case 'in_service':
      return view.load
        ? describeLoad(view.load, view.totalBytes)
        : `${view.serviceState ?? 'waiting'} in the service`;
    case 'done':
      return view.serviceState ?? 'done';
  }
}

function untilPublished({ progress }: RunView): string {
  const seconds = progress?.loadEtaSeconds;
  return typeof seconds === 'number' ? `, ${formatDuration(seconds * 1000)} until it is published` : '';
}

type Load = NonNullable<Run['load']>;

const KEY_STEPS: Record<string, string> = {
  scanning: 'reading the rows',
  sorting: 'sorting',
  writing: 'writing the index',
};

/** The phase of the load, with what is done of it. */
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

/** What is done of the phase, and the whole, in its own unit; null when the phase has no count. */
export function loadShare(load: Load, totalBytes: number): { done: number; total: number } | null {
  if (load.phase === 'copying') return { done: load.bytes ?? 0, total: totalBytes };
  if (load.phase === 'building_key') return load.keyBuild?.total ? load.keyBuild : null;
  return { done: 1, total: 1 };
}

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB'];

/** 1234567 → `1.2 MB`. Powers of ten, as for disks and networks. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** 3725000 → `1 h 2 min`; two units at most. */
export function formatDuration(ms: number): string {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds) % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function formatCount(count: number, noun: string): string {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;
}

export function formatPercent(part: number, whole: number): string {
  return `${whole === 0 ? 100 : Math.floor((part / whole) * 100)} %`;
}

/** Bytes per second over the window (10 s by default), from a total that only grows. */
export function createRate(windowMs = 10_000): (totalBytes: number, nowMs: number) => number {
  const samples: Array<{ atMs: number; totalBytes: number }> = [];
  return (totalBytes, nowMs) => {
    samples.push({ atMs: nowMs, totalBytes });
    while (samples.length > 2 && nowMs - (samples[0]?.atMs ?? nowMs) > windowMs) samples.shift();
    const first = samples[0];
    if (!first || nowMs - first.atMs < 1) return 0;
    return ((totalBytes - first.totalBytes) / (nowMs - first.atMs)) * 1000;
  };
}

/** The answer of the service to the manifest, in a sentence. */
export function describeDeclared(remote: Run, files: HashedFile[], view: RunView): string {
  if (remote.files.total !== files.length || remote.bytes.total !== view.totalBytes)
    throw miscounted(remote, files, view);
  const lines = files.reduce((sum, file) => sum + file.lines, 0);
  const what = `${view.label}: revision ${remote.revision}, ${formatCount(files.length, 'file')}, ${formatBytes(view.totalBytes)}, ${formatCount(lines, 'line')}`;
  if (remote.state !== 'receiving') return `${what}: the service has it (${remote.state})`;
  const toSend = `${formatBytes(view.totalBytes - view.receivedBytes)} to send`;
  return view.receivedBytes === 0
    ? `${what}: new ${remote.revision === 1 ? 'run' : 'revision'}: ${toSend}`
    : `${what}: the service has ${formatBytes(view.receivedBytes)}, ${toSend}`;
}

function miscounted({ files: { total }, bytes }: Run, files: HashedFile[], view: RunView): UploaderError {
  return new UploaderError(
    'bug',
    `${view.label}: the service counts ${formatCount(total, 'file')} with ${bytes.total} bytes; this push declared ${formatCount(files.length, 'file')} with ${view.totalBytes} bytes.`,
  );
}

/** What changed between two answers, one sentence each. The result says how a run ended. */
export function describeChange(before: Run, now: Run, view: RunView): string[] {
  const sentences: string[] = [];
  const phase = now.load?.phase;
  if (now.load && phase && phase !== before.load?.phase) {
    sentences.push(`${view.label}: ${describeLoad(now.load, view.totalBytes)}`);
    // `loading` is reported with its phase, which follows at once.
  } else if (
    now.state !== before.state &&
    now.state !== 'loading' &&
    EXIT_CODE_OF_STATE[now.state] === null
  ) {
    sentences.push(`${view.label}: ${now.state}`);
  }
  if (now.load?.lastError && now.load.lastError !== before.load?.lastError) {
    const next = now.load.nextTryAt ? `; the service retries it, not before ${now.load.nextTryAt}` : '';
    sentences.push(`${view.label}: a load failed: ${now.load.lastError}${next}`);
  }
  return sentences;
}

/** Shows progress: `say` prints a sentence about an event; the rest is read from the view over time. */
export type Reporter = {
  say: (sentence: string) => void;
  /** Writes to another stream, which may be the same terminal. */
  aside: (write: () => void) => void;
  /** Clears the block; nothing is shown after it. */
  stop: () => void;
};

/** The environment and the output streams of the process; main.ts makes it. */
export type Terminal = {
  env: NodeJS.ProcessEnv;
  writeOut: (text: string) => void;
  writeError: (text: string) => void;
  /** stderr, if it is a terminal. */
  errorTty: WriteStream | null;
};

export async function startReporter(terminal: Terminal, view: PushView): Promise<Reporter> {
  if (!terminal.errorTty) return plainProgress(terminal.writeError, view);
  // log-update is loaded for a terminal only: every other start is faster without it.
  const { liveProgress } = await import('./live.ts');
  return liveProgress(terminal.errorTty, view);
}

/** More runs than this are summed up, so that the log stays readable. */
const MOST_LINES = 20;

/**
 * For logs: a whole line for each change, and the state every 30 s. No carriage returns: a scheduler would
 * show them as one endless line.
 */
export function plainProgress(write: (text: string) => void, view: PushView, everyMs = 30_000): Reporter {
  const rates = new WeakMap<RunView, ReturnType<typeof createRate>>();
  const rateOf = (run: RunView): number => {
    const rate = rates.get(run) ?? createRate(60_000);
    rates.set(run, rate);
    return rate(run.sentBytes, performance.now());
  };
  const timer = setInterval(() => {
    const going = view.runs.filter((run) => run.stage !== 'done' && run.stage !== 'waiting');
    for (const run of going.slice(0, MOST_LINES)) {
      write(`${run.label}: ${describeRun(run, rateOf(run))}\n`);
    }
    if (going.length > MOST_LINES) write(`… and ${going.length - MOST_LINES} more runs\n`);
  }, everyMs);
  // The first sample, so that the first line has a rate.
  for (const run of view.runs) rateOf(run);
  return {
    say: (sentence) => write(`${sentence}\n`),
    aside: (written) => written(),
    stop: () => clearInterval(timer),
  };
}
