"""Runs everything in turn, A B C A B C …, and prints the table of README.md: medians and their ratios.

    compare.py ROUNDS [ROWS]    called by scripts/bench.sh, which starts the servers and sets the environment

What each tool stores is first fetched back from a real server and counted. Results go to target/bench/results.json and a plot to
target/bench/results.png. ROWS, a regular expression, has only rows of the table run whose work or runs match it, and nothing else.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import typing

import measure
from plot import draw
from rows import JSON, LINEITEM, LINEITEM_ROWS, PARQUET, PLAIN, PSQL_COPY, ROWS, RUNS, SIXTY_FOUR_MB, Row, Run

ROUNDS = int(sys.argv[1])
ONLY = sys.argv[2] if len(sys.argv) > 2 else ""
S3 = str(measure.HERE.parent / "scripts" / "s3.py")


def stored(prefix: str) -> list[str]:
    listed = subprocess.run([S3, "ls", f"s3://exports/{prefix}"], check=True, text=True, stdout=subprocess.PIPE).stdout
    return [f"s3://exports/{line.split(maxsplit=1)[1]}" for line in listed.splitlines()]


def count_lines(prefix: str) -> int:
    files = [key for key in stored(prefix) if not key.endswith(".manifest")]
    lines = 0
    for start in range(0, len(files), 200):
        fetch = subprocess.Popen([S3, "cat", *files[start : start + 200]], stdout=subprocess.PIPE)
        while block := fetch.stdout.read(1 << 20):
            lines += block.count(b"\n")
        if fetch.wait() != 0:
            raise SystemExit(f"could not fetch {prefix}")
    return lines


def count_parquet(prefix: str) -> int:
    return int(measure.duckdb("count", os.environ["S3_ENDPOINT"], f"s3://exports/{prefix}/*.parquet"))


def check_tools() -> None:
    """Each tool once to a server that stores, so that what is timed is known to be whole: counted from what the server gives back."""
    server = os.environ["S3_ENDPOINT"]
    aws = f"{measure.AWS} --endpoint-url {server} s3 cp - s3://exports"

    def ours(rest: str) -> typing.Callable[[], float]:
        return lambda: measure.statement(measure.export_sql("seaweedfs", LINEITEM, rest))

    def duckdb(form: str) -> typing.Callable[[], float]:
        return lambda: measure.duckdb_export(server, "s3://exports/duckdb", form)

    tools = [
        ("ours", ours(f"{PLAIN}, {SIXTY_FOUR_MB}"), count_lines),
        ("duckdb", duckdb("json"), count_lines),
        ("psql.json", lambda: measure.shell(f"{PSQL_COPY} | {aws}/psql.json"), count_lines),
        ("copy.json", lambda: measure.statement(f"COPY ({JSON}) TO PROGRAM '{aws}/copy.json'"), count_lines),
        ("ours", ours(PARQUET), count_parquet),
        ("duckdb", duckdb("parquet"), count_parquet),
    ]
    for prefix, run, count in tools:
        run()
        rows, keys = count(prefix), stored(prefix)
        print(f"  {prefix}, {count.__name__}: {rows:,} fetched back", flush=True)
        if rows != LINEITEM_ROWS:
            raise SystemExit(f"{prefix} stored {rows} rows of {LINEITEM_ROWS}")
        for start in range(0, len(keys), 200):
            subprocess.run([S3, "rm", *keys[start : start + 200]], check=True, stdout=subprocess.DEVNULL)


def chosen() -> tuple[list[Row], list[Run]]:
    """The rows that ONLY asks for, and the runs that they compare."""
    if not ONLY:
        return ROWS, RUNS
    rows = [row for row in ROWS if re.search(ONLY, f"{row.work} | {row.ours} | {row.against}")]
    if not rows:
        raise SystemExit(f"no row of the table matches {ONLY}")
    names = {name for row in rows for name in (row.ours, row.against)}
    return rows, [run for run in RUNS if run.name in names]


def run_all(runs: list[Run]) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {run.name: [] for run in runs}
    for number in range(ROUNDS + 1):
        for run in runs:
            measure.reset_sink()
            seconds = run.seconds()
            if run.lines is not None and measure.tally()["lines"] != run.lines:
                raise SystemExit(f"{run.name}: {measure.tally()} at the sink, of {run.lines} lines")
            if number > 0:  # the first warms caches and opens files
                samples[run.name].append(seconds)
        print(f"  round {number} of {ROUNDS}", flush=True)
    return samples


def scale() -> list[dict]:
    """Time and requests a row, as rows grow."""
    found = []
    for rows in (1_000_000, 10_000_000, 50_000_000):
        query = f"SELECT g AS id, g * 1.5 AS amount, 'customer ' || g AS name FROM generate_series(1, {rows}) AS g"
        measure.reset_sink()
        seconds = statistics.median(measure.statement(measure.export_sql("tls", query)) for _ in range(3))
        requests = measure.tally()["requests"] / 3
        found.append({"rows": rows, "ns_per_row": seconds / rows * 1e9, "requests_per_1000_rows": requests / rows * 1000})
    return found


def memory() -> list[dict]:
    """Private memory that an export adds, in slow company, so that its buffers are full."""
    found = []
    for rows in (1_000_000, 6_000_000, 20_000_000):
        query = f"SELECT l.* FROM lineitem AS l, generate_series(1, 4) AS again LIMIT {rows}"
        found.append({"rows": rows, "bytes": measure.peak_memory(measure.export_sql("tls_slow", query))})
    return found


def small() -> dict[str, float]:
    """Ten rows, against the bare requests: both on a new connection."""
    query = measure.export_sql("tls", "SELECT * FROM lineitem LIMIT 10")
    output = measure.psql("LOAD 's3_export';\n\\timing on\n" + f"{query};\n" * 51)
    times = [float(line.split()[1]) / 1000 for line in output.splitlines() if line.startswith("Time: ")]
    bodies = [b"x" * 5000, b"x" * 1500]
    bare = [measure.bare_requests(measure.SINK_TLS, bodies) for _ in range(51)]
    return {"export": statistics.median(times[2:]), "first": times[1], "requests": statistics.median(bare[1:])}


def table(rows: list[Row], medians: dict[str, float]) -> str:
    lines = ["| work | ours | s | against | s | ratio | asked for |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        ours, against = medians[row.ours], medians[row.against]
        if row.longer is not None:
            ratio, asked = f"{ours / against:.2f} × its time", f"at most {row.longer}"
        else:
            ratio, asked = f"{against / ours:.1f} × as fast", f"at least {row.faster}" if row.faster else ""
        lines.append(f"| {row.work} | {row.ours} | {ours:.2f} | {row.against} | {against:.2f} | {ratio} | {asked} |")
    return "\n".join(lines)


def print_table(rows: list[Row], samples: dict[str, list[float]], medians: dict[str, float]) -> None:
    print(f"\n{os.cpu_count()} cores, medians of {ROUNDS}\n\n{table(rows, medians)}\n")
    print("| run | min | median | max |\n|---|---|---|---|")
    for name, times in samples.items():
        print(f"| {name} | {min(times):.2f} | {medians[name]:.2f} | {max(times):.2f} |")
    print()


def main() -> None:
    rows, runs = chosen()
    measure.psql((measure.HERE / "tables.sql").read_text())
    measure.load_lineitem()
    measure.psql("VACUUM (FREEZE, ANALYZE)")
    measure.psql((measure.HERE / "extension.sql").read_text())
    if not ONLY:
        print("Counting back what each tool stores", flush=True)
        check_tools()
    print(f"{ROUNDS} rounds of {len(runs)} runs, and one before them to warm up", flush=True)
    samples = run_all(runs)
    medians = {name: statistics.median(times) for name, times in samples.items()}
    if ONLY:
        return print_table(rows, samples, medians)
    results = {
        "cores": os.cpu_count(), "rounds": ROUNDS, "postgres": measure.psql("SHOW server_version;").strip(),
        "samples": samples, "medians": medians, "scale": scale(), "memory": memory(), "small": small(),
    }
    folder = pathlib.Path(os.environ["S3_EXPORT_RUN_DIR"])
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    draw(medians, f"{os.cpu_count()} cores, PostgreSQL {results['postgres'].split()[0]}, medians of {ROUNDS}", folder / "results.png")
    print_table(rows, samples, medians)
    for line in results["scale"]:
        print(f"{line['rows']:>11,} rows: {line['ns_per_row']:.0f} ns a row, {line['requests_per_1000_rows']:.3f} requests a thousand rows")
    for line in results["memory"]:
        print(f"{line['rows']:>11,} rows: {line['bytes'] / 2**20:.0f} MB of private memory")
    print("ten rows: {export:.4f} s ({first:.4f} s the first), its requests alone {requests:.4f} s".format(**results["small"]))
    print(f"\n{folder / 'results.json'} and {folder / 'results.png'} have it all.")


main()
