import type { ConnectOptions, Database } from 'db-schema';
import type { Kysely } from 'kysely';
import type pg from 'pg';
import type { Logger } from 'pino';
import type { RunLimits } from '../runs/contract.ts';

/** What a loader works with; made once, in `commands/load.ts`. */
export interface LoaderContext {
  readonly connection: ConnectOptions;
  readonly side: Kysely<Database>;
  readonly sidePool: pg.Pool;
  readonly dataDir: string;
  /** host:pid, to find the process that works on a load. */
  readonly worker: string;
  readonly maintenanceWorkMem: string;
  readonly stallTimeoutMs: number;
  readonly runLimits: RunLimits;
  readonly log: Logger;
  readonly signal: AbortSignal;
}
