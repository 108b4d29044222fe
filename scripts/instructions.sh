#!/usr/bin/env bash
# instructions.sh [FORM]: machine instructions that one row of lineitem takes, from the executor to the document, counted by
# valgrind in a single-user Postgres. The same on every run, whatever else the machine is doing, so it tells changes of a percent.
# FORM is wrapped (default), plain or rows.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

form=${1:-wrapped}
rows=20000
scripts=$ROOT/scripts
"$scripts/setup.sh" bench
use_kind bench
command -v valgrind >/dev/null || die "valgrind is missing"
cd "$ROOT"
cargo pgrx install --release --no-default-features --features "pg$PG_MAJOR bench" -c "$PG_CONFIG"

bin=${PG_CONFIG%/pg_config}
home=$(mktemp -d /tmp/s3_export.XXXXXX)
trap 'rm -rf "$home"' EXIT
[ -z "$PG_OS_USER" ] || chown "$PG_OS_USER" "$home"
as_pg "$bin/initdb" -D "$home/data" -U postgres --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null
say "Taking $rows rows of lineitem"
# Whoever makes the rows fails when head has enough.
(PYTHONPATH=${RUN_DIR%/*}/bench-tools "$STAND_INS_PYTHON" "$ROOT/benches/duckdb_tool.py" lineitem 2>/dev/null || true) |
	head -n "$rows" >"$home/lineitem.csv"
# In single-user mode a statement is a line.
{
	sed -n '/^CREATE UNLOGGED TABLE lineitem/,/;$/p' "$ROOT/benches/tables.sql" | tr '\n' ' ' | sed 's/UNLOGGED//'
	echo
	echo "COPY lineitem FROM '$home/lineitem.csv' (FORMAT csv)"
	echo "VACUUM FREEZE lineitem"
	echo "CREATE FUNCTION s3_export_bench_encode(text, text) RETURNS bigint LANGUAGE c AS '\$libdir/s3_export'"
} | as_pg "$bin/postgres" --single -D "$home/data" postgres >/dev/null 2>&1
echo "SELECT s3_export_bench_encode('SELECT * FROM lineitem', '$form')" |
	as_pg valgrind --tool=callgrind --callgrind-out-file="$home/callgrind.out" --toggle-collect=s3_export_bench_encode \
		"$bin/postgres" --single -D "$home/data" postgres >"$home/log" 2>&1 || die "$(tail -n 5 "$home/log")"
total=$(sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$home/log")
say "$((total / rows)) instructions a row ($form), of which"
callgrind_annotate "$home/callgrind.out" | grep -E '^ *[0-9,]+ \(' | grep -v 'PROGRAM TOTALS' | head -n 12 | sed -E 's/\?\?\?://; s/ \[[^]]*\]//'
