#!/usr/bin/env bash
# Every test of the project, from a fresh clone: end to end against a real Postgres and a real S3 server, then
# those that run inside Postgres, with the pure ones. TESTS="name …" runs only what matches; SMOKE=1 a part that calls into
# Postgres in every way that a major version could break; SOAK=1 the long one instead. PG_MAJOR=14, 16, 17, 18: on that one.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

scripts=$ROOT/scripts
"$scripts/setup.sh" test
use_kind test
cd "$ROOT"
features="pg$PG_MAJOR build_once"
read -ra filter <<<"${TESTS:-}"
if [ -n "${SMOKE:-}" ]; then
	filter=(arguments:: attacks:: cancel::cancel_ cancel::terminate catalog:: commit:: encoding:: formats:: hostile:: job_cancel::
		job_roles:: jobs:: parquet:: partitions:: privileges:: progress:: queries:: query_errors:: settings:: standby:: statements::
		transactions:: upgrade::)
fi
skipped=()
# Beside the builds of other majors there are none of pg_cron and PostGIS, and no libpq as new as their postgres_fdw.
[ "$PG_MAJOR" = "$DEBIAN_MAJOR" ] || skipped=(--skip cron:: --skip postgis --skip postgres_fdw)
# How much is taken depends on no version, and takes long to see.
[ -z "${SMOKE:-}" ] || skipped+=(--skip memory)

# end_to_end ARGUMENT...: no code of the extension is in these tests, so that the build for Debian's version tests any other.
end_to_end() (
	[ "$PG_MAJOR" = "$DEBIAN_MAJOR" ] || PG_MAJOR=$DEBIAN_MAJOR "$scripts/setup.sh" test
	PG_MAJOR=$DEBIAN_MAJOR
	use_kind test
	cargo test --no-default-features --features "pg$PG_MAJOR build_once" --test e2e "$@"
)

say "Building s3_export (debug) and installing it into $PG_COPY"
deny_warnings cargo pgrx install --no-default-features --features "$features" -c "$PG_CONFIG"

pgdata=$(socket_dir "$RUN_DIR/pgdata")
stop() {
	"$scripts/servers.sh" stop "$RUN_DIR"
	rm -rf "$pgdata"
}
say "Starting Postgres, SeaweedFS (a local S3 server), ministack and moto (stand-ins for AWS) in $RUN_DIR"
trap stop EXIT
"$scripts/servers.sh" start "$RUN_DIR"
settings=$("$scripts/servers.sh" env "$RUN_DIR")
eval "$settings"

if [ -n "${SOAK:-}" ]; then
	say "Two thousand exports in one backend"
	end_to_end soak -- --ignored --nocapture
	exit
fi

failed=()
output=$RUN_DIR/output
say "End-to-end tests"
end_to_end -- --test-threads=2 "${skipped[@]}" "${filter[@]}" 2>&1 | tee "$output" || failed+=(end-to-end)

# Two more builds of the extension, for what the end-to-end tests of encoding see too.
if [ -z "${SMOKE:-}" ]; then
	say "Tests inside Postgres, and the pure ones"
	# Second, because pgrx-tests puts a build of its own into the copy.
	export CARGO_PGRX_TEST_PGDATA=$pgdata
	if [ -n "$PG_OS_USER" ]; then export CARGO_PGRX_TEST_RUNAS=$PG_OS_USER; fi
	cargo test --no-default-features --features "$features pg_test" --lib -- "${filter[@]}" 2>&1 | tee -a "$output" ||
		failed+=(in-Postgres)
fi

if [ ${#failed[@]} -gt 0 ]; then
	say "What failed, again"
	# A log that is shown in part is shown from its end.
	grep -aA3 ' panicked at ' "$output" || true
fi
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
say "All tests passed"
