-- The image runs this once, when it creates the database. The group roles cannot log in. The logins below are
-- members of them; the owner runs `migrate`. None is a superuser. Create an application's login later:
-- CREATE ROLE reporting LOGIN PASSWORD '…' IN ROLE score_reader;
\set owner_password `cat /run/secrets/owner/password`
\set service_password `cat /run/secrets/service/password`
\set loader_password `cat /run/secrets/loader/password`

CREATE ROLE ingest_api NOLOGIN;
CREATE ROLE ingest_loader NOLOGIN;
CREATE ROLE score_reader NOLOGIN;
CREATE ROLE score_history_reader NOLOGIN;

CREATE ROLE ingest_owner LOGIN CREATEROLE PASSWORD :'owner_password' IN ROLE ingest_api, ingest_loader, score_reader, score_history_reader;
CREATE ROLE ingest_service LOGIN PASSWORD :'service_password' IN ROLE ingest_api;
CREATE ROLE ingest_load LOGIN PASSWORD :'loader_password' IN ROLE ingest_loader;

ALTER DATABASE scores OWNER TO ingest_owner;
REVOKE ALL ON DATABASE scores FROM PUBLIC;
GRANT CONNECT ON DATABASE scores TO ingest_api, ingest_loader, score_reader, score_history_reader;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
