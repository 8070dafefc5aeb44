import { type Kysely, sql } from 'kysely';

/**
 * A token and its successor share a name, so that the audit log, quotas and limits by name go on through a
 * rotation. How many of a name may be live is decided where tokens are made.
 */
export async function up(db: Kysely<never>): Promise<void> {
  await sql`
    ALTER TABLE ingest.api_token DROP CONSTRAINT api_token_name_key;
    CREATE INDEX api_token_name ON ingest.api_token (name);
    ALTER TABLE ingest.api_token ADD CHECK (cardinality(scopes) > 0)`.execute(db);
}
