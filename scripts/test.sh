#!/usr/bin/env bash
# Every test of the project, from a fresh clone: those of the core, which need no Postgres; those that run inside Postgres; and end to
# end against a real Postgres and a real S3 server. TESTS="name …" runs only what matches, builds only what that needs, and leaves
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
	! { matching tests/inside || matching src; } || inside=true
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
# One library for all of them: the feature adds the tests inside Postgres, and nothing that an export runs.
[ -n "${SMOKE:-}" ] || features+=" pg_test"
read -ra filter <<<"${TESTS:-}"
if [ -n "${SMOKE:-}" ]; then
	filter=(arguments:: attacks:: cancel::cancel_ cancel::terminate cancel_hung::cancel_ cancel_hung::terminate catalog:: commit::
		encoding:: feeds:: formats:: hostile:: job_cancel:: job_roles:: job_settings:: jobs:: parquet:: partitions:: privileges:: progress::
		queries:: query_errors:: run_key:: settings:: standby:: statements:: transactions:: upgrade::)
fi
skipped=()
# Beside the builds of other majors there are none of pg_cron and PostGIS, and no libpq as new as their postgres_fdw.
[ "$PG_MAJOR" = "$DEBIAN_MAJOR" ] || skipped=(--skip cron:: --skip postgis --skip postgres_fdw)
# How much is taken depends on no version, and takes long to see.
[ -z "${SMOKE:-}" ] || skipped+=(--skip memory)

# clients TARGET ARGUMENT...: runs tests that are clients of the server. No code of the extension is in them, so that the build for
# Debian's version tests any other.
clients() (
	local target=$1
	shift
	[ "$PG_MAJOR" = "$DEBIAN_MAJOR" ] || PG_MAJOR=$DEBIAN_MAJOR "$scripts/setup.sh" test
	PG_MAJOR=$DEBIAN_MAJOR
	use_kind test
	cargo test "${CARGO_FLAGS[@]}" -p s3_export --no-default-features --features "pg$PG_MAJOR build_once" --test "$target" "$@"
)

say "Building s3_export (debug) and installing it into $PG_COPY"
deny_warnings install_extension dev "$features"

stop() {
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
	clients e2e soak -- --ignored --nocapture
	exit
fi

output=$RUN_DIR/output
: >"$output"
if $inside; then
	say "Tests inside Postgres"
	clients inside -- "${filter[@]}" 2>&1 | tee "$output" || failed+=(in-Postgres)
fi
if $end_to_end; then
	say "End-to-end tests"
	clients e2e -- --test-threads=2 "${skipped[@]}" "${filter[@]}" 2>&1 | tee -a "$output" || failed+=(end-to-end)
fi

if [ ${#failed[@]} -gt 0 ]; then
	say "What failed, again"
	# A log that is shown in part is shown from its end.
	grep -aA3 -e ' panicked at ' -e ' \.\.\. FAILED: ' "$output" || true
fi
[ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]}"
say "All tests passed"
