#!/usr/bin/env bash
# What no reviewer should have to point out. Clippy sees the tests' code as well.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

# Where Postgres is called, or what it has stored is read; and encode/block.rs, for speed.
UNSAFE_FILES='^src/((pg|query)(/.*)?|receiver|transaction|progress|worker)\.rs:
^src/encode/(arrow/(column|nested)|block|datum|geo|mod|nested|output|text|value)\.rs:'
# So that more of it is a decision: raise this in the commit that needs it, and say there why.
MOST_UNSAFE=210

"$ROOT/scripts/setup.sh" test
use_kind test
cd "$ROOT"
say "cargo fmt"
cargo fmt --check
say "cargo clippy"
cargo clippy --all-targets --no-default-features --features "pg$PG_MAJOR pg_test" -- -D warnings
# And what is installed, which has less.
cargo clippy --no-default-features --features "pg$PG_MAJOR" -- -D warnings
if command -v shellcheck >/dev/null; then
	say "shellcheck"
	shellcheck -x scripts/*.sh .ci/run
fi
say "cargo deny"
need_cargo_deny
cargo deny check bans licenses sources
say "unsafe code"
counts=$(grep -rcE 'unsafe (\{|fn|impl|trait|extern)|#\[unsafe' src | grep -v ':0$')
! grep -vE "$UNSAFE_FILES" <<<"$counts" || die "unsafe code outside of the files that may have it"
total=$(awk -F: '{ total += $2 } END { print total }' <<<"$counts")
echo "$total places in $(wc -l <<<"$counts") files"
[ "$total" -le "$MOST_UNSAFE" ] || die "more unsafe code than $MOST_UNSAFE places"
say "META.json"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[ "$(grep -c "\"version\": \"$version\"" META.json)" = 2 ] || die "META.json has another version than Cargo.toml's $version"
