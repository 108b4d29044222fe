#!/usr/bin/env bash
# What no reviewer should have to point out. Clippy sees the tests' code as well.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/setup.sh" test
use_kind test
cd "$ROOT"
say "cargo fmt"
cargo fmt --check
say "cargo clippy"
cargo clippy --all-targets --no-default-features --features "pg$PG_MAJOR pg_test" -- -D warnings
if command -v shellcheck >/dev/null; then
	say "shellcheck"
	shellcheck -x scripts/*.sh .ci/run
fi
