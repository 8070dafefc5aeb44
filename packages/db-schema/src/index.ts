export {
  type ConnectOptions,
  connect,
  destroyConnection,
  openDatabase,
  refuseUnusable,
  UnusableDatabase,
} from './connect.ts';
export { parseDatabaseUrl } from './database-url.ts';
export { migrateToLatest } from './migrate.ts';
export { parentOf, partitionOf, STATISTICS_TARGET } from './model-relations.ts';
export type {
  AsOfFrom,
  Database,
  GateName,
  GateResult,
  KeyBuild,
  LoadOutcome,
  LoadPhase,
  RejectTotals,
  RevisionError,
  RevisionProfile,
  Scope,
  StoredState,
} from './tables.ts';
