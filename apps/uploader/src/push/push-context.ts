import { createByteBudget } from '../net/byte-budget.ts';
import type { TimeLimit } from '../net/time-limit.ts';
import { formatDuration } from '../progress/format.ts';
import type { ServiceAddress } from '../service/service-client.ts';
import type { Settings } from '../settings/load-settings.ts';
import { createSlots } from '../transfer/slots.ts';

type Slots = ReturnType<typeof createSlots>;

/** A declaration is work for the service: it creates an upload for every file. */
const DECLARED_AT_ONCE = 4;

/** What all runs of one push share. */
export type PushContext = {
  settings: Settings;
  service: ServiceAddress;
  source: Record<string, unknown>;
  limit: TimeLimit;
  say: (sentence: string) => void;
  sayPause: (what: string, fault: Error, pauseMs: number) => void;
  /** One run after the other is read, so that the first is on its way soon and the disk reads in order. */
  hashSlots: Slots;
  declareSlots: Slots;
  transferSlots: Slots;
  /** --bwlimit, for all transfers together. */
  budget: (bytes: number) => number;
  /** The transfers of this moment, by upload. */
  uploading: Map<string, Promise<void>>;
  stateDir: string | null;
};

export function createPushContext(
  fixed: Pick<PushContext, 'settings' | 'service' | 'source' | 'limit' | 'say' | 'stateDir'>,
): PushContext {
  return {
    ...fixed,
    sayPause: (what, fault, pauseMs) =>
      fixed.say(`${what}: ${fault.message}; next try in ${formatDuration(pauseMs)}`),
    hashSlots: createSlots(1),
    declareSlots: createSlots(DECLARED_AT_ONCE),
    transferSlots: createSlots(fixed.settings.transfers),
    budget: createByteBudget(fixed.settings.bytesPerSecond),
    uploading: new Map(),
  };
}
