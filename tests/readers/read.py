"""Reads what an export wrote, by programs that were not written here.

    read.py READER FOLDER

prints the rows in the order of their column `id`, each as a JSON array of its columns in the order of their names, with
types as the reader has them: [["id", "int", "1"], …].
"""

import gzip
import importlib.util
import json
import os
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
    columns = connection.execute(f"DESCRIBE SELECT * FROM {function}").fetchall()
    names, types = [column[0] for column in columns], [column[1] for column in columns]
    # Its Python values of that type would need one more package.
    zoned = [f'"{name}"::VARCHAR AS "{name}"' for name, kind in zip(names, types) if kind == "TIMESTAMP WITH TIME ZONE"]
    replaced = f"REPLACE ({', '.join(zoned)})" if zoned else ""
    relation = connection.execute(f"SELECT * {replaced} FROM {function}")
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


def duckdb_parquet():
    return duckdb(f"read_parquet('{FOLDER}/**/*.parquet', hive_partitioning = true)")


def pandas_parquet():
    import pandas

    return pandas_frame(pandas.read_parquet(path) for path in files(".parquet"))


def pyarrow_parquet():
    """Every value in a form that says all of it: numbers behind dates and times, bytes of floats."""
    from pyarrow import parquet

    for path in files(".parquet"):
        table = parquet.read_table(path, partitioning=None)
        columns = [(field.name, str(field.type), exact(table.column(field.name))) for field in table.schema]
        for row in zip(*(values for _, _, values in columns)):
            yield {name: (type_name, value) for (name, type_name, _), value in zip(columns, row)}


def polars_parquet():
    import polars

    for path in files(".parquet"):
        # Not in pieces of memory: that is another reader, of the same footer.
        frame = polars.read_parquet(path, use_pyarrow=False)
        types = {name: str(kind) for name, kind in frame.schema.items()}
        for row in frame.to_dicts():
            yield {name: (types[name], value) for name, value in row.items()}


def datafusion_parquet():
    from datafusion import SessionContext

    for path in files(".parquet"):
        for batch in SessionContext().read_parquet(path).collect():
            columns = [(field.name, str(field.type), exact(batch.column(field.name))) for field in batch.schema]
            for row in zip(*(values for _, _, values in columns)):
                yield {name: (type_name, value) for (name, type_name, _), value in zip(columns, row)}


def deltalake_parquet():
    """Makes a table of the folder, which reads each footer in Rust, and reads the table."""
    import deltalake

    deltalake.convert_to_deltalake(str(FOLDER))
    for row in deltalake.DeltaTable(str(FOLDER)).to_pyarrow_table().to_pylist():
        yield row


def exact(column):
    import struct

    import pyarrow
    from pyarrow import types

    kind = column.type
    if isinstance(column, pyarrow.ChunkedArray):
        return [value for chunk in column.chunks for value in exact(chunk)]
    if isinstance(kind, pyarrow.BaseExtensionType):
        return exact(column.storage)
    if types.is_dictionary(kind):
        return exact(column.dictionary_decode())
    if types.is_list(kind):
        elements, offsets = exact(column.values), column.offsets.to_pylist()
        pairs = zip(column.is_valid().to_pylist(), offsets, offsets[1:])
        return [elements[start:end] if is_valid else None for is_valid, start, end in pairs]
    if types.is_struct(kind):
        fields = [(kind.field(index).name, exact(column.field(index))) for index in range(kind.num_fields)]
        is_valid = column.is_valid().to_pylist()
        return [{name: values[row] for name, values in fields} if is_valid[row] else None for row in range(len(column))]
    if types.is_date32(kind):
        column = column.cast(pyarrow.int32())
    elif types.is_time64(kind) or types.is_timestamp(kind):
        column = column.cast(pyarrow.int64())
    shown = {
        "float": lambda value: struct.pack(">f", value).hex(),
        "double": lambda value: struct.pack(">d", value).hex(),
    }.get(str(kind), str if types.is_decimal(kind) else lambda value: value.hex() if isinstance(value, bytes) else value)
    return [None if value is None else shown(value) for value in column.to_pylist()]


def pyarrow_layout():
    """What each file says of itself."""
    from pyarrow import parquet

    for number, path in enumerate(files(".parquet")):
        file = parquet.ParquetFile(path)
        group = file.metadata.row_group(0) if file.metadata.num_row_groups else None
        columns = [group.column(index) for index in range(group.num_columns)] if group else []
        metadata = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items() if key != b"ARROW:schema"}
        yield {
            "id": number,
            "created_by": file.metadata.created_by,
            "rows": [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)],
            "compression": sorted({column.compression for column in columns}),
            "statistics": [str(column.statistics and (column.statistics.min, column.statistics.max)) for column in columns],
            "index": [column.has_column_index and column.has_offset_index for column in columns],
            "schema": [str(column) for column in (file.schema.column(index) for index in range(len(file.schema)))],
            "logical": [str(file.schema.column(index).logical_type) for index in range(len(file.schema))],
            "nullable": [field.nullable for field in file.schema_arrow],
            "comments": [(field.metadata or {}).get(b"comment", b"").decode() for field in file.schema_arrow],
            "metadata": metadata,
        }


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
    if READER.startswith("pyarrow_") and READER != "pyarrow_json":
        return [type_name, value]
    return [type_name, value if isinstance(value, str) or value is None else repr(value)]


rows = list(globals()[READER]())
rows.sort(key=lambda row: int(row["id"][1] if isinstance(row["id"], tuple) else row["id"]))
for row in rows:
    print(json.dumps([[name, *shown(row[name])] for name in sorted(row)], ensure_ascii=False))
# Some of the old ones crash where Python would end their threads.
sys.stdout.flush()
os._exit(0)
