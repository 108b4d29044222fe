#!/usr/bin/env bash
# bench.sh [ROUNDS [ROWS]]: side by side, in one run on one machine, the export against what one would use otherwise. What each row
# means and the last results are in benches/README.md; ROWS, a regular expression, leaves out those that it does not match. Figures
# are ratios of medians; nothing here fails because a machine is slow.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

scripts=$ROOT/scripts
"$scripts/setup.sh" bench
use_kind bench

say "Building s3_export (release) and installing it into $PG_COPY"
cd "$ROOT"
install_extension release "pg$PG_MAJOR bench"
say "Building the sink, an S3 server that counts what it is sent and keeps none of it"
cargo build "${CARGO_FLAGS[@]}" --release --locked -p sink --target-dir target/bench-sink

sink_pid=
stop() {
	[ -z "$sink_pid" ] || kill "$sink_pid" 2>/dev/null || true
	"$scripts/servers.sh" stop "$RUN_DIR"
}
trap stop EXIT
say "Starting Postgres, SeaweedFS and the sink"
"$scripts/servers.sh" stop "$RUN_DIR"
"$scripts/servers.sh" start "$RUN_DIR"
settings=$("$scripts/servers.sh" env "$RUN_DIR")
eval "$settings"
read -ra ports <<<"$(free_ports 4)"
export SINK_HTTP=http://127.0.0.1:${ports[0]} SINK_TLS=https://127.0.0.1:${ports[1]}
export SINK_HTTP_SLOW=http://127.0.0.1:${ports[2]} SINK_TLS_SLOW=https://127.0.0.1:${ports[3]}
export SINK_CERTIFICATE=$RUN_DIR/sink.pem BENCH_TOOLS=${RUN_DIR%/*}/bench-tools
"$ROOT/target/bench-sink/release/sink" "$SINK_CERTIFICATE" "$SINK_HTTP" "$SINK_TLS" "$SINK_HTTP_SLOW+50ms" "$SINK_TLS_SLOW+50ms" \
	>"$RUN_DIR/sink.log" 2>&1 &
sink_pid=$!

PYTHONPATH=$BENCH_TOOLS "$STAND_INS_PYTHON" "$ROOT/benches/compare.py" "${1:-5}" "${@:2}"
