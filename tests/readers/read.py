"""Reads what an export wrote, by programs that were not written here.

    read.py READER FOLDER

prints the rows in the order of their column `id`, each as a JSON array of its columns in the order of their names, with
types as the reader has them: [["id", "int", "1"], …].
"""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

READER, FOLDER = sys.argv[1], Path(sys.argv[2])


def files(*suffixes):
    return sorted(str(path) for path in FOLDER.rglob("*") if path.name.endswith(suffixes))


def rockset():
    """Rockset's own client: the class that adapts the documents of a query's result."""
    package = Path(importlib.util.find_spec("rockset").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("document", package / "document.py")
    document = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(document)
    for path in files(".json", ".json.gz"):
        with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield dict(document.Document(json.loads(line)))


def duckdb(function):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    relation = connection.execute(f"SELECT * FROM {function}")
    names = [column[0] for column in relation.description]
    types = [str(column[1]) for column in relation.description]
    for row in relation.fetchall():
        yield {name: (type_name, value) for name, type_name, value in zip(names, types, row)}


def duckdb_json():
    pattern = f"{FOLDER}/**/*.json*"
    return duckdb(f"read_json('{pattern}', format = 'newline_delimited', hive_partitioning = true)")


def duckdb_csv():
    pattern = f"{FOLDER}/**/*.csv*"
    return duckdb(f"read_csv('{pattern}', header = true, hive_partitioning = true, hive_types_autocast = false)")


def pandas_frame(frames):
    import pandas

    for row in pandas.concat(frames).to_dict("records"):
        yield {name: None if pandas.api.types.is_scalar(value) and pandas.isna(value) else value for name, value in row.items()}


def pandas_json():
    import pandas

    return pandas_frame(pandas.read_json(path, lines=True, convert_dates=False) for path in files(".json", ".json.gz"))


def pandas_csv():
    import pandas

    return pandas_frame(pandas.read_csv(path) for path in files(".csv", ".csv.gz"))


def pyarrow_json():
    """It takes one type a column, inferred from the first block, and fails at a value of another."""
    import pyarrow
    from pyarrow import json as reader

    for path in files(".json", ".json.gz", ".json.zst"):
        with pyarrow.input_stream(path, compression="detect") as stream:
            table = reader.read_json(stream)
        for row in table.to_pylist():
            yield {name: (str(table.schema.field(name).type), value) for name, value in row.items()}


def spark_rules():
    """Spark infers a column's type from all its values: one kind of JSON value a column, or it becomes a string."""
    kinds = {}
    for path in files(".json"):
        for line in open(path, encoding="utf-8"):
            row = json.loads(line)
            for name, value in row.items():
                if value is not None:
                    kind = "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
                    known = kinds.setdefault(name, kind)
                    if known != kind:
                        raise SystemExit(f"column {name} holds a {known} and a {kind}")
            yield row


def shown(value):
    type_name, value = value if isinstance(value, tuple) else (type(value).__name__, value)
    return [type_name, value if isinstance(value, str) or value is None else repr(value)]


rows = list(globals()[READER]())
rows.sort(key=lambda row: int(row["id"][1] if isinstance(row["id"], tuple) else row["id"]))
for row in rows:
    print(json.dumps([[name, *shown(row[name])] for name in sorted(row)], ensure_ascii=False))
