#!/usr/bin/env bash
# Every test of the project, from a fresh clone: those of the core, which need no Postgres; end to end against a real Postgres and a
# real S3 server; and those that run inside Postgres. TESTS="name …" runs only what matches, builds only what that needs, and leaves
# the servers running for the next time. SMOKE=1 runs a part that calls into Postgres in every way that a major version could break;
# SOAK=1 the long test instead. PG_MAJOR=17 runs them on that version.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

scripts=$ROOT/scripts

# matching FOLDER: whether a test in FOLDER has a name of TESTS; without TESTS, whatever it is. The names are read from the code, so that
# nothing is built to find out. A unit test may be named with or without its module `tests`.
matching() {
	[ -n "${TESTS:-}" ] || return 0
	local names
	names=$(cd "$ROOT/$1" && grep -rnoE '\bfn [a-z0-9_]+' --include='*.rs' . | sed -E 's|^\./||; s|(/mod)?\.rs:[0-9]+:fn |/|; s|/|::|g')
	names+=$'\n'$(sed -E 's/::([^:]+)$/::tests::\1/' <<<"$names")
	local name
	for name in $TESTS; do
		! grep -qF -e "$name" <<<"$names" || return 0
	done
	return 1
}

unit=false end_to_end=false inside=false
if [ -z "${SMOKE:-}${SOAK:-}" ]; then
	! matching core || unit=true
	! { matching pgrx-tests || matching src; } || inside=true
fi
! matching tests/e2e || end_to_end=true
$unit || $end_to_end || $inside || die "no test is named ${TESTS:-}"

failed=()
# First, since it brings the C compiler that the core needs too.
if $end_to_end || $inside; then "$scripts/setup.sh" test; fi
if $unit; then
	say "Tests of the core"
	# shellcheck disable=SC2086
	"$scripts/unit.sh" ${TESTS:-} || failed+=(unit)
	if ! $end_to_end && ! $inside; then
		[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
		exit 0
	fi
fi

use_kind test
cd "$ROOT"
features="pg$PG_MAJOR build_once"
read -ra filter <<<"${TESTS:-}"
if [ -n "${SMOKE:-}" ]; then
	filter=(arguments:: attacks:: cancel::cancel_ cancel::terminate cancel_hung::cancel_ cancel_hung::terminate catalog:: commit::
		encoding:: formats:: hostile:: job_cancel:: job_roles:: job_settings:: jobs:: parquet:: partitions:: privileges:: progress::
		queries:: query_errors:: settings:: standby:: statements:: transactions:: upgrade::)
fi
skipped=()
# Beside the builds of other majors there are none of pg_cron and PostGIS, and no libpq as new as their postgres_fdw.
[ "$PG_MAJOR" = "$DEBIAN_MAJOR" ] || skipped=(--skip cron:: --skip postgis --skip postgres_fdw)
# How much is taken depends on no version, and takes long to see.
[ -z "${SMOKE:-}" ] || skipped+=(--skip memory)

# e2e_tests ARGUMENT...: no code of the extension is in these tests, so that the build for Debian's version tests any other.
e2e_tests() (
	[ "$PG_MAJOR" = "$DEBIAN_MAJOR" ] || PG_MAJOR=$DEBIAN_MAJOR "$scripts/setup.sh" test
	PG_MAJOR=$DEBIAN_MAJOR
	use_kind test
	cargo test "${CARGO_FLAGS[@]}" -p s3_export --no-default-features --features "pg$PG_MAJOR build_once" --test e2e "$@"
)

say "Building s3_export (debug) and installing it into $PG_COPY"
deny_warnings install_extension dev "$features"

pgdata=$(socket_dir "$RUN_DIR/pgdata")
stop() {
	rm -rf "$pgdata"
	if [ -n "${TESTS:-}" ]; then
		say "The servers keep running for the next tests; make clean-servers stops them."
	else
		"$scripts/servers.sh" stop "$RUN_DIR"
	fi
}
say "Starting Postgres, SeaweedFS (a local S3 server), ministack and moto (stand-ins for AWS) in $RUN_DIR"
trap stop EXIT
"$scripts/servers.sh" start "$RUN_DIR"
settings=$("$scripts/servers.sh" env "$RUN_DIR")
eval "$settings"

if [ -n "${SOAK:-}" ]; then
	say "Two thousand exports in one backend"
	e2e_tests soak -- --ignored --nocapture
	exit
fi

output=$RUN_DIR/output
: >"$output"
if $end_to_end; then
	say "End-to-end tests"
	e2e_tests -- --test-threads=2 "${skipped[@]}" "${filter[@]}" 2>&1 | tee "$output" || failed+=(end-to-end)
fi

# Two more builds of the extension, for what the end-to-end tests of encoding see too.
if $inside; then
	say "Tests inside Postgres"
	# Second, because pgrx-tests puts a build of its own into the copy.
	export CARGO_PGRX_TEST_PGDATA=$pgdata
	if [ -n "$PG_OS_USER" ]; then export CARGO_PGRX_TEST_RUNAS=$PG_OS_USER; fi
	cargo test "${CARGO_FLAGS[@]}" -p s3_export --no-default-features --features "$features pg_test" --lib -- "${filter[@]}" 2>&1 | tee -a "$output" ||
		failed+=(in-Postgres)
fi

if [ ${#failed[@]} -gt 0 ]; then
	say "What failed, again"
	# A log that is shown in part is shown from its end.
	grep -aA3 ' panicked at ' "$output" || true
fi
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
say "All tests passed"
