export {
  type ConnectOptions,
  connect,
  destroyConnection,
  openDatabase,
  refuseUnusable,
  type ServiceRole,
  UnusableDatabase,
} from './connect.ts';
export { DatabaseUrlError, parseDatabaseUrl } from './database-url.ts';
export { type MigrationReport, migrateToLatest } from './migrate.ts';
export { createModelRelations, parentOf, partitionOf, type SqlRunner } from './model-relations.ts';
export type * from './tables.ts';
