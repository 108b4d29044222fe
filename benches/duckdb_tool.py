"""DuckDB's part, in a process of its own.

    duckdb_tool.py lineitem                 TPC-H's lineitem at scale 1, as CSV, to standard output
    duckdb_tool.py export URL DESTINATION   lineitem from Postgres to files of 64 MB of JSON; prints the seconds that took
"""

import os
import pathlib
import sys
import time

import duckdb
import duckdb_extension_httpfs
import duckdb_extension_postgres_scanner
import duckdb_extension_tpch


def connect(*packages) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"allow_unsigned_extensions": True})
    for package in packages:
        (extension,) = pathlib.Path(list(package.__path__)[0]).glob("extensions/*/*.duckdb_extension")
        connection.execute(f"LOAD '{extension}'")
    return connection


def lineitem() -> None:
    connection = connect(duckdb_extension_tpch)
    connection.execute("CALL dbgen(sf = 1)")
    connection.execute("COPY lineitem TO '/dev/stdout' (FORMAT csv, HEADER false)")


def export(url: str, destination: str) -> None:
    scheme, _, host = url.partition("://")
    connection = connect(duckdb_extension_httpfs, duckdb_extension_postgres_scanner)
    env = os.environ
    postgres = f"host={env['S3_EXPORT_PGHOST']} port={env['S3_EXPORT_PGPORT']} user=postgres dbname=postgres"
    connection.execute(f"ATTACH '{postgres}' AS pg (TYPE postgres, READ_ONLY)")
    if scheme == "https":
        connection.execute(f"SET ca_cert_file = '{env['SINK_CERTIFICATE']}'")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{env['S3_ACCESS_KEY_ID']}', SECRET '{env['S3_SECRET_ACCESS_KEY']}', ENDPOINT '{host}', "
        f"USE_SSL {scheme == 'https'}, URL_STYLE 'path', REGION 'us-east-1')"
    )
    start = time.monotonic()
    connection.execute(f"COPY (SELECT * FROM pg.lineitem) TO '{destination}' (FORMAT json, FILE_SIZE_BYTES '64MB')")
    print(time.monotonic() - start)


if sys.argv[1] == "lineitem":
    lineitem()
else:
    export(*sys.argv[2:])
