import type { Database, ModelName } from 'db-schema';
import type { Kysely } from 'kysely';

export interface AuditEvent {
  /** The token's name, or `loader`. */
  readonly actor: string;
  readonly action:
    | 'declare'
    | 'withdraw'
    | 'queue'
    | 'remove_upload'
    | 'create_token'
    | 'revoke_token'
    | 'set_contract'
    | 'publish'
    | 'retry'
    | 'retire'
    | 'expire'
    | 'lose_bytes'
    | 'deny'
    | 'adopt_store'
    | 'sign_in'
    | 'sign_out';
  readonly model?: ModelName;
  readonly run?: string;
  readonly revision?: number;
  readonly detail?: Record<string, unknown>;
}

/** Keeps who did what; part of the caller's transaction, so that an act without its record cannot be. */
export async function recordAudit(db: Kysely<Database>, event: AuditEvent): Promise<void> {
  await db
    .insertInto('ingest.audit_event')
    .values({
      actor: event.actor,
      action: event.action,
      model: event.model ?? null,
      run_key: event.run ?? null,
      revision: event.revision ?? null,
      detail: event.detail === undefined ? null : JSON.stringify(event.detail),
    })
    .execute();
}
