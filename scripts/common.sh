# shellcheck shell=bash
# Sourced by every script here, so that root and an ordinary user take the same path: where things
# lie, who runs Postgres (which refuses root), and an environment that nothing of the caller's leaks into.

set -euo pipefail
umask 022

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# The major version that Debian has; of the others there are builds (setup.sh).
DEBIAN_MAJOR=15
PG_MAJOR=${PG_MAJOR:-$DEBIAN_MAJOR}
# Debian's, which the unprivileged user can reach; the first in root's PATH may lie in root's home.
# shellcheck disable=SC2034
STAND_INS_PYTHON=/usr/bin/python3
PG_OS_USER=
if [ "$(id -u)" -eq 0 ]; then PG_OS_USER=postgres; fi

# The caller's own database must not be taken for the private one.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGPASSFILE PGSERVICE PGOPTIONS PGDATA PGSSLMODE
# Inherited by the server, it would put a backtrace into every expected error.
unset RUST_BACKTRACE
export LC_ALL=C.UTF-8
command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin

# The Rust that pgrx asks for. It builds with the one of rust-toolchain.toml too, so an older compiler is told not to mind. What follows
# goes into each call of Cargo that builds; with a compiler that is new enough it is nothing.
PGRX_RUST=1.96
CARGO_FLAGS=()
if command -v rustc >/dev/null; then
	rust=$(cd "$ROOT" && rustc --version | cut -d ' ' -f 2)
	if [ "$(printf '%s\n' "$PGRX_RUST" "$rust" | sort -V | head -n 1)" != "$PGRX_RUST" ]; then
		CARGO_FLAGS=(--ignore-rust-version)
	fi
fi

# say STEP: its beginning also goes into the file of STEP_TIMES, where .ci/run sets that, which shows what takes the time.
say() {
	printf '\n\033[1m==> %s\033[0m\n' "$*"
	[ -z "${STEP_TIMES:-}" ] || printf '%s %s\n' "$(date +%s)" "$*" >>"$STEP_TIMES"
}
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		command -v sudo >/dev/null || die "this needs root or sudo: $*"
		sudo "$@"
	fi
}

# From /, because the unprivileged user may not enter the directory we stand in.
as_pg() {
	if [ -n "$PG_OS_USER" ]; then
		(cd / && runuser -u "$PG_OS_USER" -- "$@")
	else
		"$@"
	fi
}

# use_kind test|demo|bench: where that kind's Postgres and servers lie.
use_kind() {
	local base=$ROOT/target name=$1
	[ "$PG_MAJOR" = "$DEBIAN_MAJOR" ] || name=$1-$PG_MAJOR
	mkdir -p "$base/$name"
	if ! as_pg test -x "$base/$name"; then
		id -u "$PG_OS_USER" >/dev/null 2>&1 || die "no user $PG_OS_USER yet: run scripts/setup.sh $1"
		base=/var/tmp/s3_export-$(printf %s "$ROOT" | cksum | cut -d ' ' -f 1)
		mkdir -p "$base"
		# Anyone may make a directory of that name before us.
		[[ -O $base && ! -L $base ]] || die "$base belongs to someone else"
		mkdir -p "$base/$name"
	fi
	RUN_DIR=$base/$name
	PG_COPY=$RUN_DIR/postgres
	PG_CONFIG=$PG_COPY/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
	pgrx_env "$PG_CONFIG"
}

# pgrx_env PG_CONFIG: the same for every cargo call of a kind, since pgrx makes its bindings anew when it changes.
pgrx_env() {
	export PGRX_PG_CONFIG_PATH=$1
	# Where cargo-pgrx would keep its own; without this, a change in the user's own folder would make the bindings anew.
	export PGRX_HOME=/nonexistent
}

need_compilers() {
	command -v cargo >/dev/null || die "Rust is missing: install it with rustup first"
	command -v cc >/dev/null || die "a C compiler is missing (Debian: build-essential)"
}

# deny_warnings COMMAND...: a build of the code of this repository fails at a warning. Cargo uses the wrapper for that code alone, so
# that no dependency is built again.
deny_warnings() { RUSTC_WORKSPACE_WRAPPER=$ROOT/scripts/rustc-deny-warnings.sh "$@"; }

need_cargo_deny() {
	local version=0.20.2
	if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $version" ]; then
		say "Installing cargo-deny $version"
		cargo install cargo-deny --version "=$version" --locked --debug
	fi
}

# In a folder of its own, since the one in PATH may be a user's, of another version.
MDBOOK=$ROOT/target/tools/bin/mdbook
need_mdbook() {
	local version=0.5.4
	if [ "$("$MDBOOK" --version 2>/dev/null)" != "mdbook v$version" ]; then
		say "Installing mdBook $version"
		cargo install mdbook --version "=$version" --locked --debug --no-default-features --features search --root "$ROOT/target/tools"
	fi
}

CYCLONEDX=$ROOT/target/tools/bin/cargo-cyclonedx
need_cyclonedx() {
	local version=0.5.9
	if [[ $("$CYCLONEDX" cyclonedx --version 2>/dev/null) != *" $version" ]]; then
		say "Installing cargo-cyclonedx $version"
		cargo install cargo-cyclonedx --version "=$version" --locked --debug --root "$ROOT/target/tools"
	fi
}

# free_ports N: below the range the kernel hands to clients, so that none is taken before its server starts.
free_ports() {
	python3 - "$1" <<'EOF'
import random, socket, sys

held = []
while len(held) < int(sys.argv[1]):
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", random.randrange(10240, 28000)))
        held.append(s)
    except OSError:
        pass
print(*(s.getsockname()[1] for s in held))
EOF
}

# socket_dir DIR: DIR, or a short one under /tmp when a socket in DIR would pass the kernel's 107 bytes.
socket_dir() {
	local dir=$1
	[ "${#dir}" -le 85 ] || dir=$(mktemp -d /tmp/s3e.XXXXXX)
	private_dir "$dir"
	printf '%s\n' "$dir"
}

private_dir() { install -d -m 700 ${PG_OS_USER:+-o "$PG_OS_USER"} "$1"; }

# private_file FILE <CONTENT: never readable by others, not even while it is being written.
private_file() {
	install -m 600 ${PG_OS_USER:+-o "$PG_OS_USER"} /dev/null "$1"
	cat >"$1"
}

# extension_version: the version that Cargo.toml has, which Postgres installs by default.
extension_version() { sed -n 's/^version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml" | head -n 1; }

# install_extension PROFILE FEATURES [TREE]: builds the library, and installs it with its control file and its SQL into the Postgres of
# PG_CONFIG; with TREE, below that folder instead. The SQL is written by hand, so that no tool has to make it.
install_extension() {
	local profile=$1 features=$2 tree=${3:-} built=${CARGO_TARGET_DIR:-$ROOT/target} libraries extension
	libraries=$tree$("$PG_CONFIG" --pkglibdir) extension=$tree$("$PG_CONFIG" --sharedir)/extension
	cargo build "${CARGO_FLAGS[@]}" --lib -p s3_export --locked --profile "$profile" --no-default-features --features "$features"
	# Cargo's folder of the profile dev has another name.
	[ "$profile" != dev ] || profile=debug
	mkdir -p "$libraries" "$extension"
	# A new file each, as install(1) makes them: overwriting a library in place would crash sessions that run from it.
	install -m 755 "$built/$profile/libs3_export.so" "$libraries/s3_export.so"
	sed "s/@CARGO_VERSION@/$(extension_version)/" "$ROOT/s3_export.control" | install -m 644 /dev/stdin "$extension/s3_export.control"
	install -m 644 "$ROOT/sql/catalog.sql" "$extension/s3_export--$(extension_version).sql"
	install -m 644 -t "$extension" "$ROOT"/sql/s3_export--*.sql
}

# write_checksums FOLDER: of all files that lie there, whichever script has made them.
write_checksums() {
	# Not of the list itself, which is there before it is whole.
	(cd "$1" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%f\0' | sort -z | xargs -0 sha256sum) |
		install -m 644 /dev/stdin "$1/SHA256SUMS"
}

# find_postgres PG_CONFIG: sets pg_config and major for a build against a Postgres that is there.
find_postgres() {
	pg_config=$(command -v "$1") || die "no $1: say PG_CONFIG=/path/to/pg_config"
	pg_config=$(realpath -s "$pg_config")
	[ -e "$("$pg_config" --includedir-server)/postgres.h" ] ||
		die "the server's headers are missing: install the development package of $("$pg_config" --version)"
	major=$("$pg_config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
	grep -q "^pg$major = " "$ROOT/Cargo.toml" || die "Postgres $major is not supported"
}
