#!/usr/bin/env bash
# instructions.sh [FORM]: machine instructions counted by valgrind: the same on every run, whatever else the machine is doing, so
# they tell changes of a percent. FORM is wrapped (default), plain or rows: of one row of lineitem, from the executor to the document,
# in a single-user Postgres. Or files: of one more file of 1,000 bytes, in all of the backend, over TLS and over http.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

form=${1:-wrapped}
"$ROOT/scripts/setup.sh" bench
use_kind bench
command -v valgrind >/dev/null || die "valgrind is missing"
cd "$ROOT"
install_extension release "pg$PG_MAJOR bench"

bin=${PG_CONFIG%/pg_config}
home=$(mktemp -d /tmp/s3_export.XXXXXX)
sink_pid=
stop() {
	[ -z "$sink_pid" ] || kill "$sink_pid" 2>/dev/null || true
	[ ! -f "$home/data/postmaster.pid" ] || kill -INT "$(head -n 1 "$home/data/postmaster.pid")" || true
	wait
	rm -rf "$home"
}
trap stop EXIT
[ -z "$PG_OS_USER" ] || chown "$PG_OS_USER" "$home"
as_pg "$bin/initdb" -D "$home/data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync >/dev/null

# The functions that take most, and how much.
annotate() {
	callgrind_annotate "$1" | grep -E '^ *[0-9,]+ \(' | grep -v 'PROGRAM TOTALS' | sed -n 1,12p | sed -E 's/\?\?\?://; s/ \[[^]]*\]//'
}

of_a_row() {
	local rows=20000 total
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
	annotate "$home/callgrind.out"
}

# in_session INTEGRATION FILES: the instructions of a session that writes so many files, into the variable `counted`.
in_session() {
	local pid
	pid=$("${psql[@]}" -c "SELECT pg_backend_pid()" -c "SELECT num_files_written FROM s3_export('s3://exports/counted', '$1',
		'SELECT g AS id, repeat(''x'', 920) AS text FROM generate_series(1, $2) AS g', output_chunk_size => 1)" | sed -n 1p)
	for _ in {1..120}; do
		counted=$(awk '/^totals:/ {print $2}' "$home/callgrind.$pid" 2>/dev/null || true)
		[ -z "$counted" ] || return 0
		sleep 0.5
	done
	die "valgrind has counted nothing"
}

# An export of so many files opens all the connections that it will; what further ones take is theirs alone.
of_a_file() {
	local few=400 many=900 ports first integration
	cargo build "${CARGO_FLAGS[@]}" --release --locked -p sink --target-dir target/bench-sink
	read -ra ports <<<"$(free_ports 3)"
	export SINK_HTTP=http://127.0.0.1:${ports[0]} SINK_TLS=https://127.0.0.1:${ports[1]} SINK_CERTIFICATE=$home/sink.pem
	export SINK_HTTP_SLOW=$SINK_HTTP SINK_TLS_SLOW=$SINK_TLS S3_ENDPOINT=$SINK_HTTP S3_ACCESS_KEY_ID=key S3_SECRET_ACCESS_KEY=secret
	target/bench-sink/release/sink "$SINK_CERTIFICATE" "$SINK_HTTP" "$SINK_TLS" >/dev/null &
	sink_pid=$!
	echo "k1 $(head -c 32 /dev/urandom | base64)" | private_file "$home/keys"
	printf '%s\n' "port = ${ports[2]}" "unix_socket_directories = '$home'" "s3_export.key_file = '$home/keys'" "autovacuum = off" \
		>>"$home/data/postgresql.conf"
	# It counts in each process that Postgres forks, and says so when that ends.
	as_pg env -u RUST_BACKTRACE valgrind --tool=callgrind --callgrind-out-file="$home/callgrind.%p" \
		"$bin/postgres" -D "$home/data" >"$home/log" 2>&1 &
	psql=("$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$home" -p "${ports[2]}" -U postgres)
	for _ in {1..120}; do
		! "${psql[@]}" -c "SELECT 1" >/dev/null 2>&1 || break
		sleep 0.5
	done
	"${psql[@]}" -f benches/extension.sql >/dev/null || die "$(tail -n 5 "$home/log")"
	for integration in tls http; do
		in_session "$integration" "$few"
		first=$counted
		in_session "$integration" "$many"
		say "$(((counted - first) / (many - few))) instructions a file of 1,000 bytes, over $integration"
	done
}

case $form in
files) of_a_file ;;
*) of_a_row ;;
esac
