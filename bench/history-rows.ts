type Query = (sql: string, values?: unknown[]) => Promise<unknown>;

interface History {
  readonly runs: number;
  readonly models: number;
}

/**
 * Replaces what is there by a history of finished runs, as years of use leave it: the newest run of each model is published, the others are
 * superseded, and some are failed, held or cancelled. Each has a file, an attempt and four audit events; those that readers
 * saw have a publication. Of one run in ten there was an earlier revision. No run has rows or bytes left.
 */
export async function fillHistory(query: Query, { runs, models }: History): Promise<void> {
  await query(
    'TRUNCATE ingest.run, ingest.upload, ingest.newest_revision, ingest.tally, ingest.audit_event RESTART IDENTITY CASCADE',
  );
  await query(`
    INSERT INTO ingest.model (name) SELECT 'model_' || n FROM generate_series(1, ${models}) n ON CONFLICT DO NOTHING`);
  const age = (n: string) => `now() - (${runs} - ${n} + 100) * (interval '5 years' / ${runs})`;
  await query(`
    INSERT INTO ingest.run (model, run_key)
    SELECT 'model_' || 1 + n % ${models}, 'run ' || n FROM generate_series(1, ${runs}) n`);
  const revision = (revisionOf: string, stateOf: string, condition: string) => `
    INSERT INTO ingest.run_revision (model, run_key, revision, state, as_of, manifest_sha256, file_count, total_bytes,
      total_lines, declared_by, declared_at, queued_at, loaded_at, published_at, row_count, rejects, profile, error, retired_at)
    SELECT model, 'run ' || n, ${revisionOf}, state, at, sha256(n::text::bytea), 1, 1000000, 10000, 'dag', at, at, at,
      CASE WHEN state IN ('published', 'superseded') THEN at END,
      CASE WHEN state IN ('published', 'superseded', 'held') THEN 10000 END, '{"total": 0, "byCode": {}}',
      CASE WHEN state IN ('published', 'superseded', 'held') THEN '{"rows": 10000, "min": 0, "max": 999, "mean": 499.5, "stddev": 288.7,
        "bytes": 1000000, "seconds": 1.5, "deciles": [99, 199, 299, 399, 499, 599, 699, 799, 899],
        "binShares": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]}'::jsonb END,
      CASE WHEN state = 'failed' THEN '{"code": "no_rows", "detail": "The file has no rows."}'::jsonb END,
      CASE WHEN state = 'superseded' THEN at END
    FROM (
      SELECT n, 'model_' || 1 + n % ${models} AS model, ${age('n')} AS at, ${stateOf} AS state
      FROM generate_series(1, ${runs}) n) r
    WHERE ${condition} ORDER BY n`;
  await query(revision('1', `'superseded'`, 'n % 10 = 0'));
  await query(
    revision(
      'CASE WHEN n % 10 = 0 THEN 2 ELSE 1 END',
      `CASE WHEN n > ${runs} - ${models} THEN 'published' WHEN n % 20 = 3 THEN 'failed' WHEN n % 20 = 4 THEN 'cancelled'
            WHEN n % 200 = 5 THEN 'held' ELSE 'superseded' END`,
      'true',
    ),
  );
  await query(`
    INSERT INTO ingest.upload (upload_id, model, bytes, sha256, offset_bytes, created_by, created_at, last_progress_at, received_at, removed_at, file_removed_at)
    SELECT md5(revision_id::text), model, total_bytes, manifest_sha256, CASE WHEN state = 'cancelled' THEN 5 ELSE total_bytes END, 'dag', declared_at, declared_at,
           CASE WHEN state <> 'cancelled' THEN declared_at END, declared_at, declared_at
    FROM ingest.run_revision`);
  await query(`
    INSERT INTO ingest.run_file (revision_id, name, bytes, sha256, lines, upload_id)
    SELECT revision_id, 'scores.jsonl', total_bytes, manifest_sha256, total_lines, md5(revision_id::text) FROM ingest.run_revision`);
  await query(`
    INSERT INTO ingest.load_attempt (revision_id, attempt, worker, started_at, updated_at, phase, phase_seconds, bytes_done, rows_done, finished_at, outcome)
    SELECT revision_id, 1, 'host:1', declared_at, declared_at, 'publishing', '{"copying": 1, "building_key": 0.4, "attaching": 0.1}',
           total_bytes, coalesce(row_count, 0), declared_at, state
    FROM ingest.run_revision WHERE state <> 'cancelled'`);
  await query(`
    INSERT INTO ingest.publication (model, revision_id, published_at, published_by)
    SELECT model, revision_id, published_at, 'dag' FROM ingest.run_revision WHERE published_at IS NOT NULL ORDER BY revision_id`);
  await query(`
    INSERT INTO ingest.audit_event (at, actor, action, model, run_key, revision)
    SELECT declared_at, 'dag', action, model, run_key, revision
    FROM ingest.run_revision, unnest(ARRAY['declare', 'queue', 'retire', 'deny']) action ORDER BY revision_id`);
  await query('ANALYZE');
}
