#!/usr/bin/env bash
# check.sh MAJOR: type-checks the extension for a major version of Postgres that no server can be had of here,
# with the bindings that pgrx ships for its documentation, so that no Postgres is needed. Fails at a warning.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

major=${1:-}
[ -n "$major" ] || die "usage: check.sh MAJOR"
need_compilers
cd "$ROOT"
say "cargo clippy for Postgres $major, by the bindings of pgrx"
# Clippy, with the features of make lint: so the core and all dependencies but pgrx are those that it has checked.
DOCS_RS=1 cargo clippy "${CARGO_FLAGS[@]}" --locked --no-default-features --features "pg$major build_once" -- -D warnings
