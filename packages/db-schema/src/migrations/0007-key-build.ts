import { type Kysely, sql } from 'kysely';

/** How far the build of a key is, as the loader reads it in PostgreSQL's own view, which the service may not see. */
export async function up(db: Kysely<never>): Promise<void> {
  await sql`ALTER TABLE ingest.load_attempt ADD COLUMN key_build jsonb`.execute(db);
}
