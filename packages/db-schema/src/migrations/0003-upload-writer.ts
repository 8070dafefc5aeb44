import { type Kysely, sql } from 'kysely';

/** Who writes an upload: a second one can then neither write it nor move its offset (docs/decisions/0020). */
const WRITER = sql`
ALTER TABLE ingest.upload ADD COLUMN writer text;
COMMENT ON COLUMN ingest.upload.writer IS 'the writer that has not ended in order; NULL when nobody writes';
`;

export async function up(db: Kysely<never>): Promise<void> {
  await WRITER.execute(db);
}
