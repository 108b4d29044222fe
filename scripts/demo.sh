#!/usr/bin/env bash
# The extension at work on a million rows, for someone who has only cloned the repository: quick build, private
# Postgres, local S3 server, one export in psql, and a look into the bucket. Leaves nothing running unless KEEP=1.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

scripts=$ROOT/scripts
"$scripts/setup.sh" demo
use_kind demo

say "Building s3_export (in a hurry: a release is faster) and installing it into $PG_COPY"
cd "$ROOT"
install_extension quick "pg$PG_MAJOR"

stop() { "$scripts/servers.sh" stop "$RUN_DIR"; }
finish() {
	if [ "${KEEP:-0}" != 1 ]; then
		stop
		say "Done, both servers stopped. 'make demo KEEP=1' leaves them running and says how to connect."
		return
	fi
	say "Both servers keep running until 'make demo-stop'. To connect:"
	cat <<-EOF
		$S3_EXPORT_PG_BIN/psql -h $S3_EXPORT_PGHOST -p $S3_EXPORT_PGPORT -U analyst demo
		S3 is at $S3_ENDPOINT, bucket $S3_BUCKET; with its keys in the environment:
		eval "\$($scripts/servers.sh env $RUN_DIR)" && $scripts/s3.py ls s3://$S3_BUCKET/
	EOF
}

say "Starting Postgres and SeaweedFS (a local S3 server) in $RUN_DIR"
trap stop EXIT
stop
"$scripts/servers.sh" start "$RUN_DIR"
settings=$("$scripts/servers.sh" env "$RUN_DIR")
eval "$settings"

psql() {
	"$S3_EXPORT_PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 -P pager=off -h "$S3_EXPORT_PGHOST" -p "$S3_EXPORT_PGPORT" -d demo "$@"
}

say "Loading pgbench's tables: 1,000,000 accounts"
psql -U postgres -d postgres -c 'CREATE DATABASE demo'
"$S3_EXPORT_PG_BIN/pgbench" -i -q -s 10 -h "$S3_EXPORT_PGHOST" -p "$S3_EXPORT_PGPORT" -U postgres demo >"$RUN_DIR/pgbench.log" 2>&1 ||
	die "pgbench failed: $(tail -n 5 "$RUN_DIR/pgbench.log")"

say "As the administrator: extension, integration, and a role that may use it"
# The keys come from the environment, so that neither the screen nor the process list shows them.
psql -U postgres -a <<'EOF'
CREATE EXTENSION s3_export;
\set key `echo "$S3_ACCESS_KEY_ID"`
\set secret `echo "$S3_SECRET_ACCESS_KEY"`
\set endpoint `echo "$S3_ENDPOINT"`
SELECT s3_export.create_integration('demo',
         access_key_id => :'key', secret_access_key => :'secret',
         endpoint => :'endpoint', region => 'us-east-1', path_style => true,
         allowed_locations => '{s3://exports}', usage_role => 's3_export_member');
CREATE ROLE analyst LOGIN;
GRANT s3_export_member TO analyst;
GRANT SELECT ON pgbench_accounts TO analyst;
EOF

say "As the analyst: the export"
psql -U analyst -a <<'EOF'
\timing on
SET s3_export.progress_interval = '1s';
SELECT * FROM s3_export('s3://exports/accounts', 'demo',
  'SELECT aid, bid, abalance, filler, now() AS exported_at FROM pgbench_accounts');
EOF

say "In the background: another one"
psql -U analyst -a <<'EOF'
SELECT s3_export_async('s3://exports/first', 'demo', 'SELECT aid, bid FROM pgbench_accounts WHERE aid <= 10000') AS id \gset
SELECT status, documents, files, manifest FROM s3_export.wait(:'id');
EOF

say "What the bucket holds: bytes and key"
list=$RUN_DIR/objects.txt
"$scripts/s3.py" ls "s3://$S3_BUCKET/accounts/" >"$list"
manifest=$(awk '$2 ~ /\.manifest$/ { print $2; exit }' "$list")
mapfile -t files < <(awk '$2 !~ /\.manifest$/ { print $2 }' "$list")
[ ${#files[@]} -gt 0 ] || die "the export wrote no file"
[ -n "$manifest" ] || die "the export wrote no manifest"
head -n 5 "$list"
echo "         ..."
tail -n 1 "$list"
awk '{ bytes += $1 } END { printf "%d objects, %d bytes\n", NR, bytes }' "$list"

say "The first two documents of ${files[0]}"
"$scripts/s3.py" cat "s3://$S3_BUCKET/${files[0]}" | head -n 2

say "The manifest, $manifest"
"$scripts/s3.py" cat "s3://$S3_BUCKET/$manifest" >"$RUN_DIR/manifest.json"
head -c 500 "$RUN_DIR/manifest.json"
printf '\n...\n'
python3 - "$RUN_DIR/manifest.json" <<'EOF'
import json, sys

manifest = json.load(open(sys.argv[1]))
totals = {key: value for key, value in manifest["s3_export"].items() if key != "checksums"}
print(len(manifest["entries"]), "entries; totals:", json.dumps(totals, indent=2))
EOF

say "Counting again: lines in the bucket against rows in the table"
rows=$(psql -U postgres -At -c 'SELECT count(*) FROM pgbench_accounts')
documents=$(printf "s3://$S3_BUCKET/%s\n" "${files[@]}" | xargs "$scripts/s3.py" cat | wc -l)
echo "$documents documents, $rows rows"
[ "$documents" = "$rows" ] || die "the export is not complete"
trap - EXIT
finish
