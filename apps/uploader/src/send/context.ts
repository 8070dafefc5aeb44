import { hostname, userInfo } from 'node:os';
import { startTimeLimit, type TimeLimit } from '../http/exchange.ts';
import { createFaultLog, type FaultLog } from '../http/fault-log.ts';
import {
  type InSlot,
  type Retries,
  type ServiceAddress,
  serviceAddress,
  uploaderVersion,
} from '../service/client.ts';
import type { Settings } from '../settings/settings.ts';
import { openStateDir } from '../settings/state.ts';
import { type Compression, createCompression } from './compression.ts';

/** A declaration is work for the service: it creates an upload for every file. */
const DECLARED_AT_ONCE = 4;

/** What all runs of one push share. */
export type PushContext = {
  settings: Settings;
  service: ServiceAddress;
  source: Record<string, unknown>;
  limit: TimeLimit;
  say: (sentence: string) => void;
  faults: FaultLog;
  /** For requests about `what`, which are tried until the limit. */
  retries: (what: string, limit: TimeLimit) => Retries;
  /** Runs are read one after the other, so that the first is sent soon and the disk reads in order. */
  hashSlots: InSlot;
  declareSlots: InSlot;
  transferSlots: InSlot;
  /** --compress, for all transfers together. */
  compression: Compression;
  /** --bwlimit, for all transfers together. */
  budget: (bytes: number) => number;
  /** The transfers of this moment, by upload. */
  uploading: Map<string, Promise<void>>;
  stateDir: string | null;
};

/** `say` gets the steps of a run; `warn` gets the pauses, and that the state folder cannot be used. */
export async function openPushContext(
  settings: Settings,
  env: NodeJS.ProcessEnv,
  interrupt: AbortSignal,
  { say, warn }: { say: (sentence: string) => void; warn: (sentence: string) => void },
): Promise<PushContext> {
  const faults = createFaultLog(warn);
  return {
    settings,
    service: serviceAddress(settings),
    source: sourceInfo(env),
    limit: startTimeLimit(settings.maxDurationMs, interrupt),
    say,
    faults,
    retries: (what, limit) => ({ what, limit, faults }),
    hashSlots: createSlots(1),
    declareSlots: createSlots(DECLARED_AT_ONCE),
    transferSlots: createSlots(settings.transfers),
    compression: createCompression(settings.compress, settings.chunkSizeBytes, say),
    budget: createByteBudget(settings.bytesPerSecond),
    uploading: new Map(),
    stateDir: await openStateDir(settings.stateDir, env, warn),
  };
}

/** Who pushes, and from where; in a task of Airflow also the task. */
function sourceInfo(env: NodeJS.ProcessEnv): Record<string, unknown> {
  const airflow = {
    dag_id: env.AIRFLOW_CTX_DAG_ID,
    task_id: env.AIRFLOW_CTX_TASK_ID,
    run_id: env.AIRFLOW_CTX_DAG_RUN_ID,
    try_number: env.AIRFLOW_CTX_TRY_NUMBER,
  };
  const known = Object.entries(airflow).filter(([, value]) => value);
  return {
    host: hostname(),
    user: userName(env),
    pid: process.pid,
    uploader: uploaderVersion(),
    ...(known.length > 0 ? { airflow: Object.fromEntries(known) } : {}),
  };
}

function userName(env: NodeJS.ProcessEnv): string {
  try {
    return userInfo().username;
  } catch {
    // The user id of a container often has no name.
    return env.USER ?? `uid ${process.getuid?.() ?? '?'}`;
  }
}

/** At most `count` tasks at a time; the others wait in their order of arrival. */
export function createSlots(count: number): InSlot {
  let free = count;
  const waiting: Array<() => void> = [];
  return async (task) => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else free++;
    }
  };
}

/**
 * Shares a rate among all transfers: each reports the bytes that it has sent, and gets the time to wait
 * before it sends more. Unused bytes do not accumulate.
 */
export function createByteBudget(
  bytesPerSecond: number | null,
  nowMs: () => number = () => performance.now(),
): (bytes: number) => number {
  if (bytesPerSecond === null) return () => 0;
  let paidUntilMs = 0;
  return (bytes) => {
    const now = nowMs();
    paidUntilMs = Math.max(now, paidUntilMs) + (bytes / bytesPerSecond) * 1000;
    return paidUntilMs - now;
  };
}
