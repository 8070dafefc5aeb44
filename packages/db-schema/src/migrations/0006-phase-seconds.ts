import { type Kysely, sql } from 'kysely';

/** How long each phase of a load took: what makes a load slow, and how long the key of the next one may take. */
export async function up(db: Kysely<never>): Promise<void> {
  await sql`ALTER TABLE ingest.load_attempt ADD COLUMN phase_seconds jsonb`.execute(db);
}
