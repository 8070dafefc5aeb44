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
  PRIMARY KEY (model, run_key)
);
COMMENT ON TABLE ingest.run IS 'one row per run key; a declaration locks it, so that declarations of a run do not overlap';

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
  compared_with integer REFERENCES ingest.run_revision,
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
CREATE INDEX run_revision_moving ON ingest.run_revision (revision_id) WHERE state IN ('receiving', 'queued', 'published');
CREATE INDEX run_revision_needs_person ON ingest.run_revision (model) WHERE state IN ('failed', 'held');
CREATE INDEX run_revision_as_of ON ingest.run_revision (model, as_of DESC, revision_id DESC);
CREATE UNIQUE INDEX run_revision_one_published ON ingest.run_revision (model) WHERE state = 'published';

CREATE TABLE ingest.publication (
  publication_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model text NOT NULL REFERENCES ingest.model,
  revision_id integer NOT NULL REFERENCES ingest.run_revision,
  published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_by text NOT NULL,
  reason text,
  first_row tid
);
COMMENT ON COLUMN ingest.publication.first_row IS 'a copy from run_revision, which a reader would have to open';
CREATE INDEX publication_newest ON ingest.publication (model, publication_id DESC) INCLUDE (revision_id, first_row);

CREATE TABLE ingest.shown_run (
  revision_id integer PRIMARY KEY,
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
CREATE INDEX upload_unfinished ON ingest.upload (upload_id) WHERE received_at IS NULL;
CREATE INDEX upload_content ON ingest.upload (model, sha256, bytes) WHERE removed_at IS NULL;
CREATE INDEX upload_file_to_remove ON ingest.upload (upload_id) WHERE removed_at IS NOT NULL AND file_removed_at IS NULL;
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
  revision_id integer NOT NULL REFERENCES ingest.run_revision,
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
  revision_id integer NOT NULL REFERENCES ingest.run_revision,
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
  revision_id integer NOT NULL REFERENCES ingest.run_revision,
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

export async function up(db: Kysely<never>): Promise<void> {
  await TABLES.execute(db);
}
