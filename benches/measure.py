"""How the benchmark measures: statements by psql's clock, programs by the wall's, memory by looking, and what has arrived by
asking the sink.

Everything takes its servers from the environment that scripts/bench.sh sets.
"""

import http.client
import os
import pathlib
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).parent
TOOLS = os.environ["BENCH_TOOLS"]
PSQL = [
    os.environ["S3_EXPORT_PG_BIN"] + "/psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres",
    "-h", os.environ["S3_EXPORT_PGHOST"], "-p", os.environ["S3_EXPORT_PGPORT"],
]
SINK_HTTP, SINK_TLS = os.environ["SINK_HTTP"], os.environ["SINK_TLS"]
AWS = (
    f"env PYTHONPATH={TOOLS} AWS_ACCESS_KEY_ID={os.environ['S3_ACCESS_KEY_ID']} AWS_DEFAULT_REGION=us-east-1 "
    f"AWS_SECRET_ACCESS_KEY={os.environ['S3_SECRET_ACCESS_KEY']} {sys.executable} {TOOLS}/bin/aws"
)


def psql(script: str) -> str:
    return subprocess.run(PSQL, input=script, text=True, check=True, stdout=subprocess.PIPE).stdout


# Tables, and a column of each.
TABLES = {"lineitem": "l_orderkey", "mixed": "id", "narrow": "id"}


def statement(sql: str, before: str = "") -> float:
    """Seconds of one statement, as psql counts them, in a session that has read its table: the first read maps shared memory,
    page by page, and takes as long whatever reads."""
    reads = "".join(f"SELECT count({column}) FROM {table};\n" for table, column in TABLES.items() if table in sql)
    output = psql(f"{before};\n{reads}\\timing on\n{sql};\n")
    return float(re.findall(r"^Time: ([0-9.]+) ms", output, re.MULTILINE)[-1]) / 1000


def shell(command: str) -> float:
    """Seconds of a command line, from its start to its end."""
    start = time.monotonic()
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def duckdb(*arguments: str) -> str:
    command = [sys.executable, str(HERE / "duckdb_tool.py"), *arguments]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def duckdb_export(url: str, destination: str, form: str) -> float:
    """Seconds of DuckDB's COPY alone, without its start."""
    return float(duckdb("export", url, destination, form))


def export_sql(integration: str, query: str, rest: str = "") -> str:
    quoted = query.replace("'", "''")
    return f"SELECT * FROM s3_export('s3://exports/ours', '{integration}', '{quoted}'{rest and ', ' + rest})"


def load_lineitem() -> None:
    generator = subprocess.Popen([sys.executable, str(HERE / "duckdb_tool.py"), "lineitem"], stdout=subprocess.PIPE)
    subprocess.run([*PSQL, "-c", "COPY lineitem FROM STDIN (FORMAT csv)"], stdin=generator.stdout, check=True)
    if generator.wait() != 0:
        raise SystemExit("DuckDB did not make lineitem")


def connect(url: str) -> http.client.HTTPConnection:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.netloc)
    return http.client.HTTPSConnection(parts.netloc, context=ssl.create_default_context(cafile=os.environ["SINK_CERTIFICATE"]))


def reset_sink() -> None:
    connection = connect(SINK_HTTP)
    connection.request("POST", "/?reset")
    connection.getresponse().read()


def tally() -> dict[str, int]:
    """What has arrived at the sink since it was reset."""
    connection = connect(SINK_HTTP)
    connection.request("GET", "/?tally")
    numbers = connection.getresponse().read().split()
    return dict(zip(("requests", "objects", "bytes", "lines"), map(int, numbers)))


def bare_requests(url: str, bodies: list[bytes]) -> float:
    """Seconds of PUTs one after another on a new connection: what an export of so many objects cannot be faster than."""
    start = time.monotonic()
    connection = connect(url)
    for number, body in enumerate(bodies):
        connection.request("PUT", f"/exports/bare-{number}", body)
        connection.getresponse().read()
    return time.monotonic() - start


def private_memory(pid: int) -> int:
    """Bytes that only this process has, without shared buffers."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def peak_memory(sql: str) -> int:
    """Bytes of private memory that one statement adds to its backend at most, looked at every five milliseconds."""
    session = subprocess.Popen(PSQL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    session.stdin.write("LOAD 's3_export';\nSELECT pg_backend_pid();\n")
    session.stdin.flush()
    pid = int(session.stdout.readline())
    before, peak = private_memory(pid), 0
    session.stdin.write(f"{sql};\n\\echo done\n")
    session.stdin.flush()
    ended = threading.Event()

    def wait() -> None:
        while session.stdout.readline() not in ("done\n", ""):
            pass
        ended.set()

    threading.Thread(target=wait).start()
    while not ended.wait(0.005):
        peak = max(peak, private_memory(pid))
    session.stdin.close()
    session.wait()
    return peak - before
