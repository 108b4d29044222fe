#!/usr/bin/env bash
# What no reviewer should have to point out. Clippy sees the tests' code as well.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

# Where Postgres is called, and encode/block.rs, for speed.
UNSAFE_FILES='^src/((pg|query|encode)(/.*)?|receiver|transaction|progress|worker)\.rs:'

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
say "cargo deny"
need_cargo_deny
cargo deny check bans licenses sources
say "unsafe code"
counts=$(grep -rcE 'unsafe (\{|fn|impl|extern)|#\[unsafe' src | grep -v ':0$')
! grep -vE "$UNSAFE_FILES" <<<"$counts" || die "unsafe code outside of $UNSAFE_FILES"
awk -F: '{ total += $2 } END { print total " places in " NR " files" }' <<<"$counts"
