#!/usr/bin/env bash
# Side by side, in one run on one machine: the export against what one would use otherwise. What each row means and the
# last results are in benches/README.md. Figures are ratios of medians; nothing here fails because a machine is slow.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

scripts=$ROOT/scripts
S3S_FS_VERSION=0.14.1
"$scripts/setup.sh" demo
use_kind demo

say "Building s3_export (release) and installing it into $PG_COPY"
cd "$ROOT"
cargo pgrx install --release --no-default-features --features "pg$PG_MAJOR" -c "$PG_CONFIG"

sink=$ROOT/target/tools/bin/s3s-fs
if [ "$("$sink" --version 2>/dev/null)" != "s3s-fs $S3S_FS_VERSION" ]; then
	say "Installing s3s-fs $S3S_FS_VERSION, an S3 server that does as little as possible"
	cargo install s3s-fs --version "=$S3S_FS_VERSION" --locked --features binary --root "$ROOT/target/tools"
fi

# In memory: this sink is to cost nothing, so that what is measured is the export.
sink_root=$(mktemp -d /dev/shm/s3_export.XXXXXX)
sink_pid=
stop() {
	[ -z "$sink_pid" ] || kill "$sink_pid" 2>/dev/null || true
	rm -rf "$sink_root"
	"$scripts/servers.sh" stop "$RUN_DIR"
}
trap stop EXIT
say "Starting Postgres, SeaweedFS and s3s-fs"
"$scripts/servers.sh" stop "$RUN_DIR"
"$scripts/servers.sh" start "$RUN_DIR"
settings=$("$scripts/servers.sh" env "$RUN_DIR")
eval "$settings"
mkdir "$sink_root/exports"
sink_port=$(free_ports 1)
"$sink" --host 127.0.0.1 --port "$sink_port" --access-key "$S3_ACCESS_KEY_ID" --secret-key "$S3_SECRET_ACCESS_KEY" \
	"$sink_root" >"$RUN_DIR/s3s-fs.log" 2>&1 &
sink_pid=$!

export SINK_ENDPOINT=http://127.0.0.1:$sink_port SINK_ROOT=$sink_root
python3 "$ROOT/benches/compare.py" "$@"
