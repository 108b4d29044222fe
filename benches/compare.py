"""Runs each statement of the comparison in turn, A B C A B C …, and prints medians and their ratios.

Called by scripts/bench.sh, which starts the servers and sets the environment. The optional argument is the number of
counted rounds (5).
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
BASELINE = "COPY of row_to_json to /dev/null"

STATEMENTS = {
    BASELINE: "COPY (SELECT row_to_json(t) FROM wide AS t) TO '/dev/null'",
    "export to s3s-fs": "SELECT * FROM s3_export('s3://exports/wide', 'sink', 'SELECT * FROM wide')",
    "export to SeaweedFS": "SELECT * FROM s3_export('s3://exports/wide', 'seaweedfs', 'SELECT * FROM wide')",
}

INTEGRATIONS = """
DROP EXTENSION IF EXISTS s3_export;
CREATE EXTENSION s3_export;
\\set key `echo "$S3_ACCESS_KEY_ID"`
\\set secret `echo "$S3_SECRET_ACCESS_KEY"`
\\set seaweedfs `echo "$S3_ENDPOINT"`
\\set sink `echo "$SINK_ENDPOINT"`
SELECT s3_export.create_integration('seaweedfs', :'key', :'secret', endpoint => :'seaweedfs', region => 'us-east-1',
                                    path_style => true, allowed_locations => '{s3://exports}');
SELECT s3_export.create_integration('sink', :'key', :'secret', endpoint => :'sink', region => 'us-east-1',
                                    path_style => true, allowed_locations => '{s3://exports}');
"""


def psql(script: str) -> str:
    command = [
        os.environ["S3_EXPORT_PG_BIN"] + "/psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres",
        "-h", os.environ["S3_EXPORT_PGHOST"], "-p", os.environ["S3_EXPORT_PGPORT"],
    ]
    return subprocess.run(command, input=script, text=True, check=True, stdout=subprocess.PIPE).stdout


def seconds(statement: str) -> float:
    output = psql(f"\\timing on\n{statement};\n")
    timings = [line for line in output.splitlines() if line.startswith("Time: ")]
    return float(timings[-1].split()[1]) / 1000


def empty_sink() -> None:
    """The sink keeps objects in memory, so each round starts with an empty bucket."""
    bucket = pathlib.Path(os.environ["SINK_ROOT"]) / "exports"
    shutil.rmtree(bucket)
    bucket.mkdir()


def main() -> None:
    psql(INTEGRATIONS)
    psql((HERE / "wide.sql").read_text())
    samples: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for round_number in range(ROUNDS + 1):
        for name, statement in STATEMENTS.items():
            elapsed = seconds(statement)
            if round_number > 0:  # the first warms caches and opens files
                samples[name].append(elapsed)
        empty_sink()
    baseline = statistics.median(samples[BASELINE])
    print(f"\n16 columns, 1,000,000 rows, {os.cpu_count()} cores, medians of {ROUNDS} rounds\n")
    print(f"{'':34} {'min':>7} {'median':>7} {'max':>7}   median / baseline")
    for name, times in samples.items():
        median = statistics.median(times)
        print(f"{name:34} {min(times):6.2f}s {median:6.2f}s {max(times):6.2f}s   {median / baseline:.2f}")


main()
