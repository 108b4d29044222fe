#!/usr/bin/env bash
# What no reviewer should have to point out. Clippy sees the tests' code as well. On other versions than Debian's the build of the
# tests denies the compiler's warnings (make test-majors).
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

# Where Postgres is called, or what it has stored is read; and the core's cursor, for speed.
UNSAFE_FILES='^src/(pg/.*|query/(columns|mod|origins|receiver|sink)|transaction/mod|progress|job/worker|bench)\.rs:
^src/encode/(arrow/(column|dates|geo|mod|nested|numbers|texts)|datum|folder|forms|geo|json|mod|nested|output|row|text_value|value)\.rs:
^core/src/text/cursor\.rs:'
# So that more of it is a decision: raise this in the commit that needs it, and say there why.
MAX_UNSAFE=410

"$ROOT/scripts/setup.sh" test
use_kind test
cd "$ROOT"
say "cargo clippy for Postgres $PG_MAJOR"
# What is installed, which has less than the tests' build.
cargo clippy "${CARGO_FLAGS[@]}" --no-default-features --features "pg$PG_MAJOR build_once" -- -D warnings
cargo clippy "${CARGO_FLAGS[@]}" -p s3_export -p s3_export_core --all-targets --no-default-features \
	--features "pg$PG_MAJOR build_once pg_test bench" -- -D warnings
say "cargo fmt"
cargo fmt --all --check
say "Rooms"
scripts/rooms.py core/src src
say "Sentences and links of the documentation"
scripts/prose.py
say "Features of dependencies"
# features KINDS: of each package that dependencies of these kinds bring along.
features() {
	cargo tree --locked --no-default-features --features "pg$PG_MAJOR build_once" -e "$1" --prefix none -f '{p} {f}' |
		sed 's/ (\*)$//' | sort -u
}
installed=$(features normal,no-proc-macro)
tested=$(features normal,dev,no-proc-macro)
twice=$(comm -23 <(echo "$installed") <(echo "$tested"))
[ -z "$twice" ] || die "dev-dependencies turn on features of these that build_once (Cargo.toml) does not:
$twice"
if command -v shellcheck >/dev/null; then
	say "shellcheck"
	shellcheck -x scripts/*.sh .ci/run
fi
say "cargo deny"
# Building the tool takes minutes on a new machine, so what it was asked is kept in the repository, with its answer.
inputs=$(sha256sum Cargo.lock Cargo.toml core/Cargo.toml deny.toml | sha256sum | cut -d ' ' -f 1)
if [ "$(cat scripts/deny-passed.txt)" = "$inputs" ]; then
	echo "The dependencies and deny.toml are those that passed."
else
	need_cargo_deny
	cargo deny check bans licenses sources
	# To be committed with the change of the dependencies.
	echo "$inputs" >scripts/deny-passed.txt
fi
say "unsafe code"
counts=$(grep -rcE 'unsafe (\{|fn|impl|trait|extern)|#\[unsafe' src core/src | grep -v ':0$')
! grep -vE "$UNSAFE_FILES" <<<"$counts" || die "unsafe code outside of the files that may have it"
total=$(awk -F: '{ total += $2 } END { print total }' <<<"$counts")
echo "$total places in $(wc -l <<<"$counts") files"
[ "$total" -le "$MAX_UNSAFE" ] || die "more unsafe code than $MAX_UNSAFE places"
say "Calls into Postgres that raise"
# A report answers interrupts and converts texts, and so may raise: pg/report.rs has all of them behind one guard, and says why.
raw=$(grep -rnE '\b(notice|warning|info|log|debug[1-5]|error|ereport|elog|FATAL|PANIC)!\(|\b(errstart|errfinish|EmitErrorReport|ThrowErrorData)\b|\bErrorReport(WithLevel)?::|unwrap_or_report' src |
	grep -v '^src/pg/report\.rs:') || true
[ -z "$raw" ] || die "reports outside of pg/report.rs:
$raw"
# What Postgres calls raises by a jump to whoever called it: over frames of Rust, if those did.
# A function that is not pub can be called in its own file and in the folder of its submodules; by a path, too.
called=$(grep -rnoE '(pub(\([a-z: ]+\))? )?(unsafe )?extern "C-unwind" fn [A-Za-z0-9_]+' src | while IFS=: read -r file _ found; do
	name=${found##* }
	places=("$file" "${file%.rs}")
	case $file in */mod.rs) places=("${file%/mod.rs}") ;; src/lib.rs) places=(src) ;; esac
	[[ $found != pub* ]] || places=(src)
	grep -rnE "(^|[^A-Za-z0-9_.])$name(::<[^>]*>)?\(" "${places[@]}" 2>/dev/null | grep -vE "fn $name\b|^[^:]+:[0-9]+: *//"
done) || true
[ -z "$called" ] || die "functions for Postgres that Rust calls:
$called"
# Declared by hand, and so without pgrx's guard: each says why it needs none.
UNGUARDED_FILES='^src/(pg/(background|deform|report|serializable)|progress|job/worker)\.rs$'
undecorated=$(grep -rlE '^ *unsafe extern "C(-unwind)?" \{' src | grep -vE "$UNGUARDED_FILES") || true
[ -z "$undecorated" ] || die "functions of Postgres declared without pgrx's guard:
$undecorated"
say "Tests that would not run"
# Cargo builds no tests of the library: those of src/ run inside Postgres.
unlisted=$(grep -rnE '#\[test\]|\(test\)' src tests/inside) || true
[ -z "$unlisted" ] || die "tests that no inside_tests! lists:
$unlisted"
say "Versions"
version=$(extension_version)
[ "$(grep -c "\"version\": \"$version\"" META.json)" = 2 ] || die "META.json has another version than Cargo.toml's $version"
[[ $(head -n 1 debian/changelog) == "s3-export ($version-"* ]] || die "debian/changelog has another version than Cargo.toml's $version"
