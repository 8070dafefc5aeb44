import type { Database } from 'db-schema';
import { type Kysely, sql } from 'kysely';
import { recordAudit } from './audit.ts';
import { isLive } from './tokens.ts';

/**
 * Ends the live tokens of a name at once, or all but the newest of them.
 *
 * @returns how many it ended.
 */
export async function revokeTokens(
  db: Kysely<Database>,
  name: string,
  options: { readonly keepNewest: boolean },
  actor: string,
): Promise<number> {
  return db.transaction().execute(async (trx) => {
    const revoked = await trx
      .updateTable('ingest.api_token')
      .set({ revoked_at: sql<Date>`now()` })
      .where('name', '=', name)
      .where(isLive)
      .$if(options.keepNewest, (query) =>
        query.where('token_id', '<', (eb) =>
          eb
            .selectFrom('ingest.api_token')
            .select((max) => max.fn.max('token_id').as('newest'))
            .where('name', '=', name)
            .where(isLive),
        ),
      )
      .returning('token_id')
      .execute();
    for (const { token_id } of revoked)
      await recordAudit(trx, { actor, action: 'revoke_token', detail: { name, tokenId: token_id } });
    return revoked.length;
  });
}
