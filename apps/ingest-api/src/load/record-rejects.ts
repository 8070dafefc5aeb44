import type { ClientBase } from 'pg';
import type { FileReject } from './data-fault.ts';

/** Keeps the lines that were refused, in the order in which they were found, and forgets those of an earlier load. */
export async function recordRejects(
  client: ClientBase,
  revisionId: number,
  lines: readonly FileReject[],
): Promise<void> {
  await client.query('DELETE FROM ingest.rejected_line WHERE revision_id = $1', [revisionId]);
  await client.query(
    `INSERT INTO ingest.rejected_line (revision_id, file, line, byte_offset, code, detail, excerpt)
     SELECT $1, r.file, r.line, r."byteOffset", r.code, r.detail, r.excerpt
     FROM ROWS FROM (jsonb_to_recordset($2::jsonb) AS (file text, line bigint, "byteOffset" bigint, code text, detail text, excerpt text))
       WITH ORDINALITY AS r(file, line, "byteOffset", code, detail, excerpt, place)
     ORDER BY r.place`,
    [revisionId, JSON.stringify(lines)],
  );
}
