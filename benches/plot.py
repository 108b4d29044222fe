"""Bars by tool."""

import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

# What one would use to get lineitem into a bucket as JSON, and two yardsticks that write nowhere.
BARS = {
    "s3_export, 64 MB files of plain JSON": "plain, 64 MB files, http",
    "s3_export, 8 MB files": "8 MB files, http",
    "s3_export, 6,002 files": "1,000 documents, http",
    "DuckDB, 64 MB files": "DuckDB, http",
    "psql | aws s3 cp": "psql | aws, http",
    "COPY TO PROGRAM 'aws s3 cp'": "COPY PROGRAM aws, http",
    "COPY binary to /dev/null": "COPY binary",
    "COPY of row_to_json to /dev/null": "COPY row_to_json",
}
OURS, OTHERS, YARDSTICKS = "#1f6f8b", "#b0b7bd", "#dde1e4"


def draw(medians: dict[str, float], caption: str, file: pathlib.Path) -> None:
    names, seconds = list(BARS), [medians[run] for run in BARS.values()]
    colour = [OURS if name.startswith("s3_export") else YARDSTICKS if "/dev/null" in name else OTHERS for name in names]
    figure, axes = pyplot.subplots(figsize=(9, 4.2), layout="constrained")
    bars = axes.barh(names, seconds, color=colour)
    axes.bar_label(bars, labels=[f"{value:.1f} s" for value in seconds], padding=4)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.margins(x=0.1)
    axes.set_xlabel(f"seconds  ({caption})")
    axes.set_title("TPC-H lineitem (6,001,215 rows) as JSON to an S3 server", loc="left")
    figure.savefig(file, dpi=110)
