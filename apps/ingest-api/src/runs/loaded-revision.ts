import type { Database, RevisionProfile } from 'db-schema';
import type { Kysely } from 'kysely';

/** A profile as the API answers it; the shares that later runs are compared by are of no use to people. */
export function profileView(profile: RevisionProfile | null) {
  if (profile === null) return null;
  const { binShares: _, ...view } = profile;
  return view;
}

/** The run that was published when a revision was judged, and its profile: what changed against last month. */
export async function comparedWith(db: Kysely<Database>, revisionId: number | null) {
  if (revisionId === null) return null;
  const row = await db
    .selectFrom('ingest.run_revision')
    .select(['run_key', 'revision', 'profile'])
    .where('revision_id', '=', revisionId)
    .executeTakeFirst();
  if (row === undefined) return null;
  return { run: row.run_key, revision: row.revision, profile: profileView(row.profile) };
}
