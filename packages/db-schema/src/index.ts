export { type ConnectOptions, clientConfig, openDatabase, type ServiceRole } from './connect.ts';
export { type MigrationReport, migrateToLatest } from './migrate.ts';
export { isModelName, MODEL_NAME_RULE, type ModelName, parseModelName } from './model-name.ts';
export { createModelRelations, parentOf, partitionOf, type SqlRunner } from './model-relations.ts';
export type * from './tables.ts';
