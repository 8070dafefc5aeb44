import { type Kysely, sql } from 'kysely';

/**
 * Schema `ingest`: the only source of truth about models, runs, files, loads and tokens. Owners and grants
 * are not part of a migration: `grants.ts` sets them at every `migrate`.
 *
 * The state `loading` is not stored: the revision is `queued`, and a loader's open transaction holds its row.
 * `publication` is the pointer of every model: `scores.<model>` shows its newest row.
 */
const TABLES = sql`
CREATE SCHEMA run_data;
CREATE SCHEMA scores;
CREATE SCHEMA scores_history;
CREATE SCHEMA scores_info;
CREATE SCHEMA scores_typed;

CREATE FUNCTION ingest.note_shown_run() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  SELECT first_row INTO NEW.first_row FROM ingest.run_revision WHERE revision_id = NEW.revision_id;
  INSERT INTO ingest.shown_run SELECT revision_id, run_key, as_of, published_at FROM ingest.run_revision
  WHERE revision_id = NEW.revision_id
  ON CONFLICT (revision_id) DO UPDATE SET published_at = excluded.published_at;
  RETURN NEW;
END $function$;

CREATE TABLE ingest.api_token (
  token_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
  scopes text[] NOT NULL CHECK (scopes <@ ARRAY['push', 'read', 'operate', 'admin'] AND cardinality(scopes) > 0),
  models text[],
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
COMMENT ON COLUMN ingest.api_token.name IS 'shared by a token and its successor, so that audit and quotas continue through a rotation';
COMMENT ON COLUMN ingest.api_token.models IS 'the models that the token covers; NULL covers all';
CREATE INDEX api_token_name ON ingest.api_token (name);

CREATE TABLE ingest.session (
  session_sha256 bytea PRIMARY KEY CHECK (octet_length(session_sha256) = 32),
  token_id integer NOT NULL REFERENCES ingest.api_token,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL
);
COMMENT ON TABLE ingest.session IS 'sign-ins on the status page; a session also ends when its token does';
CREATE INDEX session_token ON ingest.session (token_id);

CREATE TABLE ingest.model (
  name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,47}$'),
  contract jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ingest.run (
  model text NOT NULL REFERENCES ingest.model,
  run_key text NOT NULL CHECK (char_length(run_key) BETWEEN 1 AND 200),
  pruned_revision integer,
  pruned_sha256 bytea,
  pruned_as_of timestamptz,
  PRIMARY KEY (model, run_key)
);
COMMENT ON TABLE ingest.run IS 'one row per run key; a declaration locks it, so that declarations of a run do not overlap; it outlives the history of the run';
COMMENT ON COLUMN ingest.run.pruned_revision IS 'the newest revision that was deleted with its history; the next one gets the next number';
COMMENT ON COLUMN ingest.run.pruned_sha256 IS 'the manifest of the newest revision that was deleted by age: the same content pushed again keeps the date pruned_as_of, and so its place in the order';

CREATE TABLE ingest.run_revision (
  revision_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model text NOT NULL,
  run_key text NOT NULL,
  revision integer NOT NULL CHECK (revision >= 1),
  state text NOT NULL DEFAULT 'receiving'
    CHECK (state IN ('receiving', 'queued', 'published', 'superseded', 'held', 'failed', 'cancelled')),
  as_of timestamptz NOT NULL CHECK (as_of >= '0001-01-01 00:00:00Z' AND as_of < '10000-01-01 00:00:00Z'),
  as_of_from text NOT NULL DEFAULT 'declared' CHECK (as_of_from IN ('given', 'run_key', 'declared')),
  manifest_sha256 bytea CHECK (octet_length(manifest_sha256) = 32),
  file_count integer NOT NULL DEFAULT 0,
  total_bytes bigint NOT NULL DEFAULT 0,
  total_lines bigint,
  source jsonb,
  declared_by text NOT NULL,
  declared_at timestamptz NOT NULL DEFAULT now(),
  queued_at timestamptz,
  loaded_at timestamptz,
  published_at timestamptz,
  row_count bigint,
  rejects jsonb,
  error jsonb,
  profile jsonb,
  gates jsonb,
  compared_with integer REFERENCES ingest.run_revision ON DELETE SET NULL,
  retired_at timestamptz,
  erased_rows bigint NOT NULL DEFAULT 0,
  first_row tid DEFAULT '(0,1)',
  hidden_at timestamptz,
  UNIQUE (model, run_key, revision),
  FOREIGN KEY (model, run_key) REFERENCES ingest.run
);
COMMENT ON COLUMN ingest.run_revision.as_of_from IS 'given by the caller, read from the run key, or the time of the declaration';
COMMENT ON COLUMN ingest.run_revision.manifest_sha256 IS 'identity of the content; NULL for a plain tus upload, which has no manifest';
COMMENT ON COLUMN ingest.run_revision.total_lines IS 'lines that the manifest declares; NULL for a plain tus upload';
COMMENT ON COLUMN ingest.run_revision.profile IS 'distribution of the scores: rows, min, max, mean, stddev, deciles, bin shares, bytes, seconds';
COMMENT ON COLUMN ingest.run_revision.gates IS 'result of each gate of the contract: expected, found, broken';
COMMENT ON COLUMN ingest.run_revision.compared_with IS 'the revision that was published when this one was judged';
COMMENT ON COLUMN ingest.run_revision.retired_at IS 'when retention selected its rows for removal: they are dropped, or will be';
COMMENT ON COLUMN ingest.run_revision.erased_rows IS 'rows that ingest-api erase has deleted; row_count counts the rows that were loaded';
COMMENT ON COLUMN ingest.run_revision.first_row IS 'address of the row that the views look for; NULL when all rows were erased';
COMMENT ON COLUMN ingest.run_revision.hidden_at IS 'when retention hid its partition from new queries, to detach it later; NULL when it does not wait';
CREATE INDEX run_revision_queue ON ingest.run_revision (queued_at) WHERE state = 'queued';
CREATE INDEX run_revision_receiving ON ingest.run_revision (revision_id) WHERE state = 'receiving';
CREATE INDEX run_revision_moving ON ingest.run_revision (revision_id) WHERE state IN ('receiving', 'queued');
CREATE INDEX run_revision_as_of ON ingest.run_revision (model, as_of DESC, revision_id DESC);
CREATE UNIQUE INDEX run_revision_one_published ON ingest.run_revision (model) WHERE state = 'published';
CREATE INDEX run_revision_kept_rows ON ingest.run_revision (model) WHERE row_count IS NOT NULL AND retired_at IS NULL;
CREATE INDEX run_revision_retired ON ingest.run_revision (model) WHERE retired_at IS NOT NULL;
CREATE INDEX run_revision_compared ON ingest.run_revision (compared_with) WHERE compared_with IS NOT NULL;
CREATE INDEX run_revision_ended ON ingest.run_revision (declared_at) WHERE state IN ('superseded', 'failed', 'cancelled');
CREATE INDEX run_revision_owner ON ingest.run_revision (declared_by, declared_at) INCLUDE (file_count);

CREATE TABLE ingest.publication (
  publication_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model text NOT NULL REFERENCES ingest.model,
  revision_id integer NOT NULL REFERENCES ingest.run_revision ON DELETE CASCADE,
  published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_by text NOT NULL,
  reason text,
  first_row tid
);
CREATE INDEX publication_revision ON ingest.publication (revision_id);
COMMENT ON COLUMN ingest.publication.first_row IS 'a copy from run_revision, which a reader would have to open';
CREATE INDEX publication_newest ON ingest.publication (model, publication_id DESC) INCLUDE (revision_id, first_row);

CREATE TABLE ingest.shown_run (
  revision_id integer PRIMARY KEY REFERENCES ingest.run_revision ON DELETE CASCADE,
  run_key text NOT NULL,
  as_of timestamptz NOT NULL,
  published_at timestamptz
);
COMMENT ON TABLE ingest.shown_run IS 'what the views show of a run: a copy from run_revision, which a reader would have to open with all its columns and indexes';
CREATE TRIGGER publication_shows_run BEFORE INSERT ON ingest.publication FOR EACH ROW EXECUTE FUNCTION ingest.note_shown_run();

CREATE VIEW ingest.published_run AS
SELECT m.name AS model, r.run_key AS run, r.as_of, p.published_at, r.row_count - r.erased_rows AS rows
FROM ingest.model m
LEFT JOIN LATERAL (
  SELECT revision_id, published_at FROM ingest.publication WHERE model = m.name ORDER BY publication_id DESC LIMIT 1) p ON true
LEFT JOIN ingest.run_revision r ON r.revision_id = p.revision_id;
COMMENT ON VIEW ingest.published_run IS 'what scores_info.models shows, and the notification scores_published contains';

CREATE VIEW scores_info.models WITH (security_barrier) AS
SELECT model, run, as_of, published_at, rows FROM ingest.published_run
WHERE EXISTS (
  SELECT FROM pg_catalog.pg_class c
  WHERE c.relname = model AND c.relnamespace = 'scores'::regnamespace AND has_table_privilege(c.oid, 'SELECT'));
COMMENT ON VIEW scores_info.models IS 'what scores.<model> shows now, one line for each model that you may read';
COMMENT ON COLUMN scores_info.models.model IS 'name of the model and of its view in the schema scores';
COMMENT ON COLUMN scores_info.models.run IS 'key of the published run; NULL when no run was published yet';
COMMENT ON COLUMN scores_info.models.as_of IS 'date of the run';
COMMENT ON COLUMN scores_info.models.published_at IS 'when the run was last published; a rollback to it counts';
COMMENT ON COLUMN scores_info.models.rows IS 'rows that scores.<model> has now';

CREATE TABLE ingest.upload (
  upload_id text PRIMARY KEY CHECK (upload_id ~ '^[0-9a-f]{32}$'),
  model text NOT NULL REFERENCES ingest.model,
  bytes bigint NOT NULL CHECK (bytes >= 0),
  sha256 bytea CHECK (octet_length(sha256) = 32),
  offset_bytes bigint NOT NULL DEFAULT 0 CHECK (offset_bytes BETWEEN 0 AND bytes),
  metadata text,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  last_progress_at timestamptz NOT NULL DEFAULT now(),
  received_at timestamptz,
  removed_at timestamptz,
  file_removed_at timestamptz,
  file text,
  writer text
);
COMMENT ON COLUMN ingest.upload.offset_bytes IS 'durable bytes: never more than the store holds';
COMMENT ON COLUMN ingest.upload.metadata IS 'the header Upload-Metadata as it was sent; NULL for a file of a manifest';
COMMENT ON COLUMN ingest.upload.file_removed_at IS 'when its file, or its objects, were deleted; removed_at allows the deletion';
COMMENT ON COLUMN ingest.upload.file IS 'name of its file in the folder of the uploads; NULL for the upload id';
COMMENT ON COLUMN ingest.upload.writer IS 'the writer that has not released the upload (docs/decisions/0020); NULL when there is none';
CREATE INDEX upload_unfinished ON ingest.upload (upload_id) WHERE received_at IS NULL AND removed_at IS NULL;
CREATE INDEX upload_content ON ingest.upload (model, sha256, bytes) WHERE removed_at IS NULL;
CREATE INDEX upload_file_to_remove ON ingest.upload (upload_id) WHERE removed_at IS NOT NULL AND file_removed_at IS NULL;
CREATE INDEX upload_removed ON ingest.upload (file_removed_at) WHERE file_removed_at IS NOT NULL;
CREATE INDEX upload_owner ON ingest.upload (created_by) WHERE file_removed_at IS NULL;

CREATE TABLE ingest.upload_segment (
  upload_id text NOT NULL REFERENCES ingest.upload,
  from_byte bigint NOT NULL CHECK (from_byte >= 0),
  bytes integer NOT NULL CHECK (bytes > 0),
  object_key text NOT NULL UNIQUE,
  crc32 bigint NOT NULL CHECK (crc32 BETWEEN 0 AND 4294967295),
  PRIMARY KEY (upload_id, from_byte)
);
COMMENT ON TABLE ingest.upload_segment IS 'the objects of a bucket that hold the bytes of an upload; empty when the store is a folder';

CREATE TABLE ingest.writer (
  writer text PRIMARY KEY,
  beat_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ingest.writer IS 'the service processes that write uploads; a writer without a recent beat counts as gone';

CREATE TABLE ingest.run_file (
  revision_id integer NOT NULL REFERENCES ingest.run_revision ON DELETE CASCADE,
  name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
  bytes bigint NOT NULL CHECK (bytes >= 0),
  sha256 bytea CHECK (octet_length(sha256) = 32),
  lines bigint CHECK (lines >= 0),
  upload_id text NOT NULL REFERENCES ingest.upload,
  PRIMARY KEY (revision_id, name)
);
CREATE INDEX run_file_upload ON ingest.run_file (upload_id);

CREATE TABLE ingest.load_attempt (
  attempt_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  revision_id integer NOT NULL REFERENCES ingest.run_revision ON DELETE CASCADE,
  attempt integer NOT NULL,
  worker text NOT NULL,
  transaction_id xid8,
  started_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  phase text NOT NULL DEFAULT 'copying',
  phase_seconds jsonb,
  key_build jsonb,
  bytes_done bigint NOT NULL DEFAULT 0,
  rows_done bigint NOT NULL DEFAULT 0,
  finished_at timestamptz,
  outcome text CHECK (outcome IN ('published', 'superseded', 'held', 'failed', 'retry', 'lost')),
  error text,
  next_try_at timestamptz,
  UNIQUE (revision_id, attempt)
);
CREATE INDEX load_attempt_unfinished ON ingest.load_attempt (updated_at) WHERE finished_at IS NULL;
COMMENT ON COLUMN ingest.load_attempt.transaction_id IS 'the transaction of the load: the attempt is alive while it is in progress, whatever the other columns say';
COMMENT ON COLUMN ingest.load_attempt.phase_seconds IS 'how long each phase took, for an attempt that ended regularly';
COMMENT ON COLUMN ingest.load_attempt.key_build IS 'progress of the build of the key; the loader copies it from a view that the service may not read';

CREATE TABLE ingest.rejected_line (
  reject_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  revision_id integer NOT NULL REFERENCES ingest.run_revision ON DELETE CASCADE,
  file text NOT NULL,
  line bigint NOT NULL,
  byte_offset bigint NOT NULL,
  code text NOT NULL,
  detail text NOT NULL,
  excerpt text NOT NULL
);
CREATE INDEX rejected_line_revision ON ingest.rejected_line (revision_id, reject_id);

CREATE TABLE ingest.store (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  store_id uuid NOT NULL,
  generation bigint NOT NULL
);
COMMENT ON TABLE ingest.store IS 'identity of the folder with the bytes of the uploads; the marker in the folder has the same values';

CREATE TABLE ingest.sweep (name text PRIMARY KEY);
COMMENT ON TABLE ingest.sweep IS 'a process that cleans up locks the row of its sweep, so that one process at a time does it';
INSERT INTO ingest.sweep VALUES ('files'), ('rows');

CREATE TABLE ingest.audit_event (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL,
  action text NOT NULL,
  model text,
  run_key text,
  revision integer,
  detail jsonb
);
CREATE INDEX audit_event_run ON ingest.audit_event (model, run_key, event_id);
`;

/**
 * What every look at the service needs, kept by triggers instead of summed up from all runs. Two rules keep writers from
 * waiting for each other: `newest_revision` is written when a transaction commits, and a counter is never updated: a row
 * is added to `tally` for each change, and a sweep adds up rows (`foldTally` in ingest-api).
 */
const KEPT = sql`
CREATE TABLE ingest.newest_revision (
  model text NOT NULL,
  run_key text NOT NULL,
  revision_id integer,
  state text,
  as_of timestamptz,
  PRIMARY KEY (model, run_key)
);
COMMENT ON TABLE ingest.newest_revision IS 'the newest revision of each run and its state: what lists of runs are made from';
CREATE INDEX newest_revision_all ON ingest.newest_revision (revision_id);
CREATE INDEX newest_revision_state ON ingest.newest_revision (state, revision_id);
CREATE INDEX newest_revision_model ON ingest.newest_revision (model, revision_id);
CREATE INDEX newest_revision_model_state ON ingest.newest_revision (model, state, revision_id);
CREATE INDEX newest_revision_date ON ingest.newest_revision (model, as_of, revision_id);

CREATE TABLE ingest.tally (
  tally_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  label text,
  model text,
  amount double precision NOT NULL
);
COMMENT ON TABLE ingest.tally IS 'counters: the value of one is the sum of its rows; history that is deleted stays counted';

-- At COMMIT, so that a load and a declaration of the same run, which take minutes, never wait for each other here: whoever
-- commits later sees what the other has written.
CREATE FUNCTION ingest.keep_newest_revision() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  it ingest.run_revision;
  was ingest.newest_revision;
  newest record;
BEGIN
  IF TG_OP = 'DELETE' THEN it := OLD; ELSE it := NEW; END IF;
  SELECT * INTO was FROM ingest.newest_revision WHERE model = it.model AND run_key = it.run_key FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    INSERT INTO ingest.newest_revision (model, run_key) VALUES (it.model, it.run_key)
    ON CONFLICT (model, run_key) DO UPDATE SET run_key = excluded.run_key RETURNING * INTO was;
  END IF;
  SELECT revision_id, state, as_of INTO newest FROM ingest.run_revision
  WHERE model = it.model AND run_key = it.run_key ORDER BY revision DESC LIMIT 1;
  IF NOT FOUND THEN
    DELETE FROM ingest.newest_revision WHERE model = it.model AND run_key = it.run_key;
  ELSIF (was.revision_id, was.state) IS DISTINCT FROM (newest.revision_id, newest.state) THEN
    UPDATE ingest.newest_revision SET revision_id = newest.revision_id, state = newest.state, as_of = newest.as_of
    WHERE model = it.model AND run_key = it.run_key;
  END IF;
  IF was.state IS DISTINCT FROM newest.state THEN
    INSERT INTO ingest.tally (name, label, model, amount)
    SELECT 'runs', state, it.model, amount FROM (VALUES (was.state, -1), (newest.state, 1)) change (state, amount)
    WHERE state IS NOT NULL;
  END IF;
  RETURN NULL;
END $function$;
CREATE CONSTRAINT TRIGGER run_revision_added_or_deleted AFTER INSERT OR DELETE ON ingest.run_revision
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ingest.keep_newest_revision();
CREATE CONSTRAINT TRIGGER run_revision_moved AFTER UPDATE OF state ON ingest.run_revision
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
  EXECUTE FUNCTION ingest.keep_newest_revision();

CREATE FUNCTION ingest.count_rejects() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  INSERT INTO ingest.tally (name, amount) VALUES ('rejected_lines', (NEW.rejects->>'total')::bigint);
  RETURN NULL;
END $function$;
CREATE TRIGGER run_revision_has_rejects AFTER INSERT ON ingest.run_revision
  FOR EACH ROW WHEN ((NEW.rejects->>'total')::bigint > 0) EXECUTE FUNCTION ingest.count_rejects();
CREATE TRIGGER run_revision_gets_rejects AFTER UPDATE OF rejects ON ingest.run_revision
  FOR EACH ROW WHEN ((NEW.rejects->>'total')::bigint > 0 AND NEW.rejects IS DISTINCT FROM OLD.rejects)
  EXECUTE FUNCTION ingest.count_rejects();

CREATE FUNCTION ingest.count_new_uploads() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  INSERT INTO ingest.tally (name, amount)
  SELECT name, amount
  FROM (SELECT count(*), count(received_at), coalesce(sum(offset_bytes), 0) FROM added) s (created, finished, bytes),
       LATERAL (VALUES ('uploads_created', created), ('uploads_finished', finished), ('upload_bytes', bytes)) c (name, amount)
  WHERE amount <> 0;
  RETURN NULL;
END $function$;
CREATE TRIGGER uploads_added AFTER INSERT ON ingest.upload REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION ingest.count_new_uploads();

CREATE FUNCTION ingest.count_upload_progress() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  INSERT INTO ingest.tally (name, amount)
  SELECT name, amount
  FROM (VALUES ('upload_bytes', NEW.offset_bytes - OLD.offset_bytes),
               ('uploads_finished', (NEW.received_at IS NOT NULL)::int - (OLD.received_at IS NOT NULL)::int)) c (name, amount)
  WHERE amount <> 0;
  RETURN NULL;
END $function$;
CREATE TRIGGER upload_progressed AFTER UPDATE OF offset_bytes, received_at ON ingest.upload
  FOR EACH ROW WHEN (OLD.offset_bytes <> NEW.offset_bytes OR (OLD.received_at IS NULL) <> (NEW.received_at IS NULL))
  EXECUTE FUNCTION ingest.count_upload_progress();

-- The outcome of an attempt may be corrected: what the first one has counted is taken back.
CREATE FUNCTION ingest.count_attempt() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  INSERT INTO ingest.tally (name, label, amount)
  SELECT c.name, c.label, c.amount * a.sign
  FROM (VALUES (OLD.outcome, OLD.finished_at - OLD.started_at, OLD.rows_done, OLD.bytes_done, OLD.phase_seconds, -1),
               (NEW.outcome, NEW.finished_at - NEW.started_at, NEW.rows_done, NEW.bytes_done, NEW.phase_seconds, 1))
         a (outcome, took, rows, bytes, phases, sign),
       LATERAL (
         SELECT 'loads', a.outcome, 1::double precision
         UNION ALL SELECT 'load_seconds', a.outcome, greatest(0, extract(epoch FROM a.took))
         UNION ALL SELECT 'loaded_rows', NULL, a.rows WHERE a.outcome IN ('published', 'superseded', 'held')
         UNION ALL SELECT 'loaded_bytes', NULL, a.bytes WHERE a.outcome IN ('published', 'superseded', 'held')
         UNION ALL SELECT 'phase_seconds', key, value::double precision FROM jsonb_each_text(a.phases)) c (name, label, amount)
  WHERE a.outcome IS NOT NULL;
  RETURN NULL;
END $function$;
CREATE TRIGGER load_attempt_added AFTER INSERT ON ingest.load_attempt
  FOR EACH ROW WHEN (NEW.outcome IS NOT NULL) EXECUTE FUNCTION ingest.count_attempt();
CREATE TRIGGER load_attempt_ended AFTER UPDATE OF outcome ON ingest.load_attempt
  FOR EACH ROW WHEN (OLD.outcome IS DISTINCT FROM NEW.outcome) EXECUTE FUNCTION ingest.count_attempt();

CREATE FUNCTION ingest.count_denial() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
  INSERT INTO ingest.tally (name, amount) VALUES ('denials', 1);
  RETURN NULL;
END $function$;
CREATE TRIGGER audit_event_denies AFTER INSERT ON ingest.audit_event
  FOR EACH ROW WHEN (NEW.action = 'deny') EXECUTE FUNCTION ingest.count_denial();

-- The service may not delete from the audit log, except through this function: nothing that is younger than a day, and
-- nothing about a run that is published.
CREATE INDEX audit_event_at ON ingest.audit_event (at);
CREATE FUNCTION ingest.prune_audit(before timestamptz, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE deleted bigint;
BEGIN
  DELETE FROM ingest.audit_event WHERE event_id = ANY (ARRAY(
    SELECT event_id FROM ingest.audit_event e
    WHERE e.at < least(before, now() - interval '1 day') AND NOT EXISTS (
      SELECT FROM ingest.run_revision r WHERE r.model = e.model AND r.run_key = e.run_key AND r.state = 'published')
    ORDER BY e.at LIMIT most));
  GET DIAGNOSTICS deleted = ROW_COUNT;
  RETURN deleted;
END $function$;
REVOKE ALL ON FUNCTION ingest.prune_audit FROM PUBLIC;

-- What a request must know of an upload. A function, because PostgreSQL keeps its plan: planning takes longer than looking up.
-- A plan that was made while a table was empty would read all of it when it is full: hence no sequential scans, and OFFSET 0,
-- so that removed_at does not lead PostgreSQL to a partial index, of which it would read all as well.
CREATE FUNCTION ingest.find_upload(id text) RETURNS TABLE (
  model text, file text, bytes bigint, offset_bytes bigint, created_at timestamptz, metadata text, writer text,
  last_progress_at timestamptz, awaited_by integer[], awaited_since timestamptz)
LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $function$
BEGIN
  RETURN QUERY
  SELECT u.model, u.file, u.bytes, u.offset_bytes, u.created_at, u.metadata, u.writer, u.last_progress_at, r.ids, r.since
  FROM (SELECT * FROM ingest.upload WHERE upload_id = id OFFSET 0) u, LATERAL (
    SELECT coalesce(array_agg(revision_id ORDER BY revision_id), '{}') AS ids, max(declared_at) AS since
    FROM ingest.run_revision
    WHERE state = 'receiving' AND revision_id = ANY (ARRAY(SELECT revision_id FROM ingest.run_file WHERE upload_id = id))) r
  WHERE u.removed_at IS NULL;
END $function$;
REVOKE ALL ON FUNCTION ingest.find_upload FROM PUBLIC;
`;

export async function up(db: Kysely<never>): Promise<void> {
  await TABLES.execute(db);
  await KEPT.execute(db);
}
