"""What the benchmark runs, and what it makes of it: each row of the table compares one run with another.

README.md explains the rows. A run is a name and a function that gives seconds; runs that reach the sink say how many lines must
have arrived there.
"""

import dataclasses
import typing

from measure import AWS, SINK_HTTP, SINK_TLS, PSQL, duckdb_export, export_sql, shell, statement

LINEITEM_ROWS = 6_001_215
MIXED_ROWS = 1_000_000
NARROW_ROWS = 20_000_000

EIGHT_MB = "output_chunk_size => 1000000000, output_chunk_bytes => 8000000"
SIXTY_FOUR_MB = "output_chunk_size => 1000000000, output_chunk_bytes => 64000000"
# Documents as the other tools write them.
PLAIN = "wrap_types => false"
PARQUET = "format => 'parquet'"
JSON = "SELECT row_to_json(t) FROM lineitem AS t"
FILTER = "SELECT * FROM lineitem WHERE l_comment ~ 'special.*requests'"
SERIAL, PARALLEL = "SET max_parallel_workers_per_gather = 0", "SET max_parallel_workers_per_gather = 2"


@dataclasses.dataclass
class Run:
    name: str
    seconds: typing.Callable[[], float]
    # Lines that the sink must have counted.
    lines: int | None = None


def sql(name: str, text: str, before: str = SERIAL) -> Run:
    return Run(name, lambda: statement(text, before))


def encode(name: str, query: str, form: str = "wrapped", before: str = SERIAL) -> Run:
    text = query.replace("'", "''")
    return sql(name, f"SELECT s3_export_bench_encode('{text}', '{form}')", before)


def export(name: str, to: str, query: str, rest: str = "", lines: int | None = None, before: str = SERIAL) -> Run:
    return Run(name, lambda: statement(export_sql(to, query, rest), before), lines)


def both(name: str, query: str, rest: str, lines: int | None, suffix: str = "") -> list[Run]:
    return [export(f"{name}, {server}", server + suffix, query, rest, lines) for server in ("tls", "http")]


def packed(algorithm: str) -> str:
    return f"compression => '{algorithm}', options => '{{\"compression_level\": 1}}', output_chunk_size => 20000"


LINEITEM = "SELECT * FROM lineitem"
PSQL_COPY = " ".join(PSQL) + f' -c "COPY ({JSON}) TO STDOUT"'

RUNS = [
    sql("COPY row_to_json", f"COPY ({JSON}) TO '/dev/null'"),
    sql("COPY binary", "COPY lineitem TO '/dev/null' (FORMAT binary)"),
    encode("rows alone", LINEITEM, "rows"),
    encode("encode", LINEITEM),
    encode("encode plain", LINEITEM, "plain"),
    *both("8 MB files", LINEITEM, EIGHT_MB, LINEITEM_ROWS),
    *both("1,000 documents", LINEITEM, "", LINEITEM_ROWS),
    *both("8 MB files, 50 ms", LINEITEM, EIGHT_MB, LINEITEM_ROWS, "_slow"),
    *both("1,000 documents, 50 ms", LINEITEM, "", LINEITEM_ROWS, "_slow"),
    *both("plain, 64 MB files", LINEITEM, f"{PLAIN}, {SIXTY_FOUR_MB}", LINEITEM_ROWS),
    Run("DuckDB, tls", lambda: duckdb_export(SINK_TLS, "s3://exports/duckdb", "json"), LINEITEM_ROWS),
    Run("DuckDB, http", lambda: duckdb_export(SINK_HTTP, "s3://exports/duckdb", "json"), LINEITEM_ROWS),
    Run("psql | aws, http", lambda: shell(f"{PSQL_COPY} | {AWS} --endpoint-url {SINK_HTTP} s3 cp - s3://exports/psql.json")),
    sql("COPY PROGRAM aws, http", f"COPY ({JSON}) TO PROGRAM '{AWS} --endpoint-url {SINK_HTTP} s3 cp - s3://exports/copy.json'"),
    sql("COPY row_to_json mixed", "COPY (SELECT row_to_json(t) FROM mixed AS t) TO '/dev/null'"),
    encode("encode mixed", "SELECT * FROM mixed"),
    *both("mixed", "SELECT * FROM mixed", "", MIXED_ROWS),
    sql("COPY text narrow", "COPY narrow TO '/dev/null'"),
    *both("narrow, 30,000 documents", "SELECT * FROM narrow", "output_chunk_size => 30000", NARROW_ROWS),
    *both("narrow, 1,000 documents", "SELECT * FROM narrow", "", NARROW_ROWS),
    sql("COPY text | zstd", "COPY lineitem TO PROGRAM 'zstd -1 -q >/dev/null'"),
    sql("COPY row_to_json | zstd", f"COPY ({JSON}) TO PROGRAM 'zstd -1 -q >/dev/null'"),
    *both("zstd", LINEITEM, packed("zstd"), None),
    sql("COPY text | gzip", "COPY lineitem TO PROGRAM 'gzip -1 >/dev/null'"),
    sql("COPY row_to_json | gzip", f"COPY ({JSON}) TO PROGRAM 'gzip -1 >/dev/null'"),
    *both("gzip", LINEITEM, packed("gzip"), None),
    sql("COPY csv", "COPY lineitem TO '/dev/null' (FORMAT csv)"),
    *both("csv, 8 MB files", LINEITEM, f"format => 'csv', options => '{{\"header\": false}}', {EIGHT_MB}", LINEITEM_ROWS),
    *both("Parquet", LINEITEM, PARQUET, None),
    Run("DuckDB's Parquet, tls", lambda: duckdb_export(SINK_TLS, "s3://exports/duckdb", "parquet")),
    Run("DuckDB's Parquet, http", lambda: duckdb_export(SINK_HTTP, "s3://exports/duckdb", "parquet")),
    encode("filter alone, serial", FILTER, "rows", SERIAL),
    encode("filter alone, parallel", FILTER, "rows", PARALLEL),
    export("filter, serial", "tls", FILTER, before=SERIAL),
    export("filter, parallel", "tls", FILTER, before=PARALLEL),
]


@dataclasses.dataclass
class Row:
    work: str
    # The run of ours, and the one it is compared with.
    ours: str
    against: str
    # What is asked for: so many times as fast (at least), or so many times as long (at most).
    faster: float | None = None
    longer: float | None = None


ROWS = [
    Row("lineitem, encode only", "encode", "COPY row_to_json", faster=10),
    Row("lineitem, 8 MB files", "8 MB files, tls", "COPY binary", faster=1),
    Row("lineitem, 8 MB files", "8 MB files, http", "COPY binary", faster=1),
    Row("lineitem, 64 MB files of plain JSON", "plain, 64 MB files, tls", "DuckDB, tls", faster=4),
    Row("lineitem, 64 MB files of plain JSON", "plain, 64 MB files, http", "DuckDB, http", faster=4),
    Row("lineitem, 6,002 files", "1,000 documents, tls", "8 MB files, tls", longer=1.25),
    Row("lineitem, 6,002 files", "1,000 documents, http", "8 MB files, http", longer=1.25),
    Row("lineitem, 64 MB files of plain JSON", "plain, 64 MB files, http", "psql | aws, http"),
    Row("lineitem, 64 MB files of plain JSON", "plain, 64 MB files, http", "COPY PROGRAM aws, http"),
    Row("mixed, encode only", "encode mixed", "COPY row_to_json mixed", faster=4),
    Row("mixed", "mixed, tls", "COPY row_to_json mixed", faster=4),
    Row("mixed", "mixed, http", "COPY row_to_json mixed", faster=4),
    Row("narrow, 667 files", "narrow, 30,000 documents, tls", "COPY text narrow", faster=2),
    Row("narrow, 667 files", "narrow, 30,000 documents, http", "COPY text narrow", faster=2),
    Row("narrow, 20,000 files", "narrow, 1,000 documents, tls", "COPY text narrow"),
    Row("50 ms, 8 MB files", "8 MB files, 50 ms, tls", "8 MB files, tls", longer=1.1),
    Row("50 ms, 8 MB files", "8 MB files, 50 ms, http", "8 MB files, http", longer=1.1),
    Row("50 ms, 6,002 files", "1,000 documents, 50 ms, tls", "1,000 documents, tls", longer=1.1),
    Row("50 ms, 6,002 files", "1,000 documents, 50 ms, http", "1,000 documents, http", longer=1.1),
    Row("zstd -1, JSON", "zstd, tls", "COPY row_to_json | zstd", faster=2),
    Row("gzip -1, JSON", "gzip, tls", "COPY row_to_json | gzip", faster=2),
    Row("zstd -1, four times the bytes", "zstd, tls", "COPY text | zstd"),
    Row("gzip -1, four times the bytes", "gzip, tls", "COPY text | gzip"),
    Row("CSV, 8 MB files", "csv, 8 MB files, tls", "COPY csv"),
    Row("Parquet, zstd", "Parquet, tls", "DuckDB's Parquet, tls", faster=1),
    Row("Parquet, zstd", "Parquet, http", "DuckDB's Parquet, http", faster=1),
    Row("Parquet, zstd", "Parquet, tls", "csv, 8 MB files, tls"),
    Row("Parquet, zstd", "Parquet, tls", "8 MB files, tls"),
    Row("a parallel query, alone", "filter alone, parallel", "filter alone, serial"),
    Row("a parallel query, exported", "filter, parallel", "filter, serial"),
]
