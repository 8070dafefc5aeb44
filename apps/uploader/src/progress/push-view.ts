import type { Run, RunState } from '../service/run-schema.ts';

export type FileView = { name: string; totalBytes: number; sentBytes: number };

/** What is known of one run at this moment; the push writes it, whatever shows progress reads it. */
export type RunView = {
  label: string;
  stage: 'waiting' | 'checking' | 'hashing' | 'declaring' | 'sending' | 'in_service' | 'done';
  totalBytes: number;
  hashedBytes: number;
  /** Held by the service, as far as it has said so. */
  receivedBytes: number;
  /** Given to the network by this process. */
  sentBytes: number;
  filesTotal: number;
  filesReceived: number;
  /** Being sent right now; `sentBytes` counts from the file's start. */
  active: Map<string, FileView>;
  load: Run['load'];
  progress: Run['progress'];
  revision: number | null;
  serviceState: RunState | null;
};

export type PushView = { startedAtMs: number; runs: RunView[] };

export function newRunView(label: string, filesTotal: number): RunView {
  return {
    label,
    stage: 'waiting',
    totalBytes: 0,
    hashedBytes: 0,
    receivedBytes: 0,
    sentBytes: 0,
    filesTotal,
    filesReceived: 0,
    active: new Map(),
    load: null,
    progress: null,
    revision: null,
    serviceState: null,
  };
}

/** What the service holds, with what is on its way in the transfers of this moment. */
export function bytesThere(view: RunView): number {
  let bytes = view.receivedBytes;
  for (const file of view.active.values()) bytes += file.sentBytes;
  return Math.min(bytes, view.totalBytes);
}
