import type { StoredState } from 'db-schema';

/** What a caller is shown: the stored states, and `loading` for a queued revision with a live load. */
export type RunState = StoredState | 'loading';

/** What a person or a program may ask for. */
export type RunAction = 'upload' | 'withdraw' | 'retry' | 'publish';

interface StateRule {
  /** Where a revision may go from here, and who takes it there. */
  readonly moves: Partial<
    Record<RunState, 'uploader' | 'finish hook' | 'lost bytes' | 'loader' | 'operator' | 'new revision'>
  >;
  readonly mayDo: readonly RunAction[];
}

/**
 * The life of a revision, written once: code, API answers and docs/architecture.md go by this table.
 * A fault of the machinery (network, database, disk) is never a state: it is tried again.
 */
export const RUN_STATES: Readonly<Record<RunState, StateRule>> = {
  receiving: { moves: { queued: 'finish hook', cancelled: 'new revision' }, mayDo: ['upload', 'withdraw'] },
  queued: {
    moves: { loading: 'loader', receiving: 'lost bytes', cancelled: 'new revision' },
    mayDo: ['retry', 'withdraw'],
  },
  loading: {
    moves: {
      published: 'loader',
      superseded: 'loader',
      held: 'loader',
      failed: 'loader',
      receiving: 'lost bytes',
    },
    mayDo: [],
  },
  published: { moves: { superseded: 'loader' }, mayDo: [] },
  superseded: { moves: { published: 'operator', cancelled: 'operator' }, mayDo: ['publish', 'withdraw'] },
  held: {
    moves: { published: 'operator', superseded: 'loader', cancelled: 'operator' },
    mayDo: ['publish', 'withdraw'],
  },
  failed: { moves: { queued: 'operator', cancelled: 'operator' }, mayDo: ['retry', 'withdraw'] },
  cancelled: { moves: {}, mayDo: [] },
};

/** What retention has left of a revision. */
export interface Kept {
  /** Its rows; also before it is loaded. */
  readonly keepsRows: boolean;
  /** Its files. */
  readonly keepsFiles: boolean;
}

/** What may be asked for now: only what the state allows and what has what it needs. */
export function mayDo(state: RunState, { keepsRows, keepsFiles }: Kept): readonly RunAction[] {
  return RUN_STATES[state].mayDo.filter((action) => {
    if (action === 'publish') return keepsRows;
    if (action === 'retry') return state !== 'failed' || keepsFiles;
    return true;
  });
}
