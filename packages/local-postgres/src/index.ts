export { type RunningPostgres, type StartOptions, startPostgres } from './start-postgres.ts';
export { createTestDatabase, type TemplateRecipe, type TestDatabase } from './test-database.ts';
export { postgresModule } from './versions.ts';
