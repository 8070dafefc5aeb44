"""The contenders of bench/load.ts that are written in Python: load_contenders.py duckdb|psycopg|dlt JOB.

JOB is JSON: url, json (the file), rows (of it, from its first line), set (plain or attributes), table and key (the
statements that create them), memory (maintenance_work_mem), dir. Prints the seconds as JSON.
"""

import itertools
import json
import os
import sys
import time


def load_duckdb(job):
    import duckdb
    import duckdb_extension_postgres_scanner
    import psycopg

    package = os.path.dirname(duckdb_extension_postgres_scanner.__file__)
    lake = duckdb.connect()
    lake.execute(f"LOAD '{package}/extensions/v{duckdb.__version__}/postgres_scanner.duckdb_extension'")
    columns = {"pk": "VARCHAR", "score": "DOUBLE"}
    attributes = "NULL"
    if job["set"] == "attributes":
        names = {"decile": "INTEGER", "version": "VARCHAR", "reason_1": "VARCHAR", "reason_2": "VARCHAR"}
        columns |= names
        attributes = "json_object(" + ", ".join(f"'{name}', {name}" for name in names) + ")"
    started = time.monotonic()
    with psycopg.connect(job["url"], autocommit=True) as connection:
        connection.execute(job["table"])
        lake.execute(f"ATTACH '{job['url']}' AS pg (TYPE postgres)")
        lake.execute(
            "INSERT INTO pg.contender (score, pk, attributes) "
            f"SELECT score, pk, {attributes} FROM read_json('{job['json']}', format = 'newline_delimited', columns = {columns})"
        )
        connection.execute(f"SET maintenance_work_mem = '{job['memory']}'")
        connection.execute(job["key"])
    return time.monotonic() - started


def load_psycopg(job):
    import orjson
    import psycopg
    from psycopg.types.json import Jsonb, set_json_dumps

    set_json_dumps(orjson.dumps)
    started = time.monotonic()
    with psycopg.connect(job["url"]) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL maintenance_work_mem = '{job['memory']}'")
        cursor.execute(job["table"])
        statement = "COPY contender (score, pk, attributes) FROM STDIN (FORMAT binary, FREEZE)"
        with open(job["json"], "rb") as lines, cursor.copy(statement) as copy:
            copy.set_types(["float8", "text", "jsonb"])
            for line in lines:
                row = orjson.loads(line)
                pk, score = row.pop("pk"), float(row.pop("score"))
                copy.write_row((score, pk, Jsonb(row) if row else None))
        cursor.execute(job["key"])
    return time.monotonic() - started


def load_dlt(job):
    import dlt
    import orjson

    def rows():
        with open(job["json"], "rb") as lines:
            for line in itertools.islice(lines, job["rows"]):
                row = orjson.loads(line)
                pk, score = row.pop("pk"), float(row.pop("score"))
                yield {"pk": pk, "score": score, **({"attributes": row} if row else {})}

    started = time.monotonic()
    pipeline = dlt.pipeline(
        pipeline_name="contender",
        pipelines_dir=os.path.join(job["dir"], "dlt"),
        destination=dlt.destinations.postgres(job["url"]),
        dataset_name="contender_dlt",
    )
    columns = {"attributes": {"data_type": "json"}}
    pipeline.run(rows(), table_name="contender", write_disposition="replace", columns=columns)
    with pipeline.sql_client() as client:
        client.execute_sql("ALTER TABLE contender ADD PRIMARY KEY (pk)")
    return time.monotonic() - started


CONTENDERS = {"duckdb": load_duckdb, "psycopg": load_psycopg, "dlt": load_dlt}

print(json.dumps({"seconds": CONTENDERS[sys.argv[1]](json.loads(sys.argv[2]))}))
