import { type Kysely, sql } from 'kysely';

/** Roles belong to the whole cluster, not to one database: another database may have made them already. */
const ROLES = sql`
DO $$
DECLARE role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['ingest_api', 'ingest_loader', 'score_reader'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        -- So that the database's owner can work as the service does: \`ingest-api token create\`.
        EXECUTE format('GRANT %I TO CURRENT_USER', role_name);
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- made by another database's migration just now
    END;
  END LOOP;
END $$`;

/**
 * Schema `ingest`: the one source of truth about models, runs, files, loads and tokens.
 *
 * The state `loading` is not stored: a revision is `queued`, and a loader's open transaction holds its row.
 * `publication` is the pointer of every model: its newest row is what `scores.<model>` shows.
 */
const TABLES = sql`
CREATE TABLE ingest.api_token (
  token_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
  scopes text[] NOT NULL CHECK (scopes <@ ARRAY['push', 'read', 'operate', 'admin']),
  models text[],
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz
);
COMMENT ON COLUMN ingest.api_token.models IS 'the models this token covers; NULL covers all';

CREATE TABLE ingest.model (
  name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,47}$'),
  contract jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ingest.run_revision (
  revision_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model text NOT NULL REFERENCES ingest.model,
  run_key text NOT NULL CHECK (char_length(run_key) BETWEEN 1 AND 200),
  revision integer NOT NULL CHECK (revision >= 1),
  state text NOT NULL DEFAULT 'receiving'
    CHECK (state IN ('receiving', 'queued', 'published', 'superseded', 'held', 'failed', 'cancelled')),
  as_of timestamptz NOT NULL,
  manifest_sha256 bytea CHECK (octet_length(manifest_sha256) = 32),
  source jsonb,
  declared_by text NOT NULL,
  declared_at timestamptz NOT NULL DEFAULT now(),
  queued_at timestamptz,
  loaded_at timestamptz,
  published_at timestamptz,
  row_count bigint,
  rejects jsonb,
  error jsonb,
  UNIQUE (model, run_key, revision)
);
COMMENT ON COLUMN ingest.run_revision.manifest_sha256 IS 'identity of the content; NULL for a plain tus upload, which declares none';
CREATE INDEX run_revision_queue ON ingest.run_revision (queued_at) WHERE state = 'queued';
CREATE INDEX run_revision_receiving ON ingest.run_revision (revision_id) WHERE state = 'receiving';
CREATE UNIQUE INDEX run_revision_one_published ON ingest.run_revision (model) WHERE state = 'published';

CREATE TABLE ingest.publication (
  publication_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model text NOT NULL REFERENCES ingest.model,
  revision_id integer NOT NULL REFERENCES ingest.run_revision,
  published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_by text NOT NULL,
  reason text
);
CREATE INDEX publication_newest ON ingest.publication (model, publication_id DESC) INCLUDE (revision_id);

CREATE TABLE ingest.upload (
  upload_id text PRIMARY KEY CHECK (upload_id ~ '^[0-9a-f]{32}$'),
  model text NOT NULL REFERENCES ingest.model,
  bytes bigint NOT NULL CHECK (bytes >= 0),
  sha256 bytea CHECK (octet_length(sha256) = 32),
  offset_bytes bigint NOT NULL DEFAULT 0 CHECK (offset_bytes BETWEEN 0 AND bytes),
  metadata jsonb,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  last_progress_at timestamptz NOT NULL DEFAULT now(),
  received_at timestamptz,
  removed_at timestamptz
);
COMMENT ON COLUMN ingest.upload.offset_bytes IS 'bytes that are synced to the disk: never more than the file holds';
CREATE INDEX upload_unfinished ON ingest.upload (upload_id) WHERE received_at IS NULL;
CREATE INDEX upload_content ON ingest.upload (model, sha256, bytes) WHERE removed_at IS NULL;

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
  started_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  phase text NOT NULL DEFAULT 'copying',
  bytes_done bigint NOT NULL DEFAULT 0,
  rows_done bigint NOT NULL DEFAULT 0,
  finished_at timestamptz,
  outcome text CHECK (outcome IN ('published', 'superseded', 'held', 'failed', 'retry', 'lost')),
  error text,
  next_try_at timestamptz,
  UNIQUE (revision_id, attempt)
);

CREATE TABLE ingest.rejected_line (
  revision_id integer NOT NULL REFERENCES ingest.run_revision,
  file text NOT NULL,
  line bigint NOT NULL,
  byte_offset bigint NOT NULL,
  code text NOT NULL,
  detail text NOT NULL,
  excerpt text NOT NULL
);
CREATE INDEX rejected_line_revision ON ingest.rejected_line (revision_id, file, line);

CREATE TABLE ingest.audit_event (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL,
  action text NOT NULL,
  model text,
  run_key text,
  revision integer,
  detail jsonb
);
CREATE INDEX audit_event_run ON ingest.audit_event (model, run_key, event_id);
`;

/** The API never reads a score; the loader owns the scores; a reader sees the views and nothing else. */
const GRANTS = sql`
CREATE SCHEMA run_data AUTHORIZATION CURRENT_USER;
CREATE SCHEMA scores AUTHORIZATION CURRENT_USER;
GRANT USAGE, CREATE ON SCHEMA run_data, scores TO ingest_loader;
GRANT USAGE ON SCHEMA scores TO score_reader;
GRANT USAGE ON SCHEMA ingest TO ingest_api, ingest_loader;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ingest TO ingest_api;
REVOKE DELETE, UPDATE ON ingest.audit_event FROM ingest_api;
GRANT SELECT ON ingest.model, ingest.upload, ingest.run_file TO ingest_loader;
GRANT UPDATE (contract) ON ingest.model TO ingest_loader; -- SELECT … FOR NO KEY UPDATE asks for a right to update
GRANT SELECT, UPDATE ON ingest.run_revision TO ingest_loader;
GRANT UPDATE (removed_at) ON ingest.upload TO ingest_loader;
GRANT SELECT, INSERT, UPDATE ON ingest.load_attempt TO ingest_loader;
GRANT SELECT, INSERT, DELETE ON ingest.rejected_line TO ingest_loader;
GRANT SELECT, INSERT ON ingest.publication, ingest.audit_event TO ingest_loader;
REVOKE ALL ON ALL TABLES IN SCHEMA ingest FROM PUBLIC;
`;

export async function up(db: Kysely<never>): Promise<void> {
  await ROLES.execute(db);
  await TABLES.execute(db);
  await GRANTS.execute(db);
}
