"""DuckDB's part, in a process of its own.

    duckdb_tool.py lineitem                        TPC-H's lineitem at scale 1, as CSV, to standard output
    duckdb_tool.py export URL DESTINATION FORMAT   lineitem from Postgres to files of FORMAT; prints the seconds that took
    duckdb_tool.py count URL FILES                 prints how many rows Parquet files hold
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


def use_server(connection: duckdb.DuckDBPyConnection, url: str) -> None:
    scheme, _, host = url.partition("://")
    env = os.environ
    if scheme == "https":
        connection.execute(f"SET ca_cert_file = '{env['SINK_CERTIFICATE']}'")
    connection.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{env['S3_ACCESS_KEY_ID']}', SECRET '{env['S3_SECRET_ACCESS_KEY']}', ENDPOINT '{host}', "
        f"USE_SSL {scheme == 'https'}, URL_STYLE 'path', REGION 'us-east-1')"
    )


# For each format the way that is fastest, as far as DuckDB's documentation tells.
FORMATS = {
    "json": "FORMAT json, FILE_SIZE_BYTES '64MB'",
    "parquet": "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PER_THREAD_OUTPUT",
}


def export(url: str, destination: str, form: str) -> None:
    connection = connect(duckdb_extension_httpfs, duckdb_extension_postgres_scanner)
    env = os.environ
    postgres = f"host={env['S3_EXPORT_PGHOST']} port={env['S3_EXPORT_PGPORT']} user=postgres dbname=postgres"
    connection.execute(f"ATTACH '{postgres}' AS pg (TYPE postgres, READ_ONLY)")
    use_server(connection, url)
    start = time.monotonic()
    connection.execute(f"COPY (SELECT * FROM pg.lineitem) TO '{destination}' ({FORMATS[form]})")
    print(time.monotonic() - start)


def count(url: str, files: str) -> None:
    connection = connect(duckdb_extension_httpfs)
    use_server(connection, url)
    # Every value, not only what the footers say.
    query = f"SELECT count(l_comment) FILTER (length(l_comment) > 0 AND l_orderkey > 0) FROM read_parquet('{files}')"
    print(connection.execute(query).fetchone()[0])


match sys.argv[1:]:
    case ["lineitem"]:
        lineitem()
    case ["export", url, destination, form]:
        export(url, destination, form)
    case ["count", url, files]:
        count(url, files)
