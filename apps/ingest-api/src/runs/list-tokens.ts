import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';

/** Every token there ever was, by name, the newest first; never the token itself. */
export function listTokens(db: Kysely<Database>) {
  return db
    .selectFrom('ingest.api_token')
    .select([
      'token_id',
      'name',
      'scopes',
      'models',
      'created_at',
      'expires_at',
      'revoked_at',
      'last_used_at',
    ])
    .select(
      sql<'live' | 'expired' | 'revoked'>`
        CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'live' END`.as(
        'state',
      ),
    )
    .orderBy('name')
    .orderBy('token_id', 'desc')
    .execute();
}
