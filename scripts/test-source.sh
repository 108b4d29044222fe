#!/usr/bin/env bash
# Builds from the archives of scripts/source-package.sh, in folders outside of the repository, and compares the lists of files:
# `make && make install` from PGXN's, and dpkg-buildpackage from Debian's, without a network. PROFILE=quick takes less time.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/source-package.sh"
version=$(extension_version)
packages=$ROOT/target/package
pg_config=/usr/lib/postgresql/$DEBIAN_MAJOR/bin/pg_config
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# expect WHAT FILES: an installation has these files and no others.
expect() {
	local expected
	expected=$({
		echo "$("$pg_config" --pkglibdir)/s3_export.so"
		for script in "$ROOT"/sql/s3_export--*.sql; do echo "$("$pg_config" --sharedir)/extension/${script##*/}"; done
		echo "$("$pg_config" --sharedir)/extension/s3_export--$version.sql"
		echo "$("$pg_config" --sharedir)/extension/s3_export.control"
	} | sort)
	[ "$2" = "$expected" ] || die "$1 has other files than it should: $(diff <(echo "$expected") <(echo "$2"))"
	echo "$2"
}

say "make && make install, from PGXN's archive"
python3 -m json.tool "$ROOT/META.json" >/dev/null
(
	cd "$folder"
	unzip -q "$packages/s3_export-$version.zip"
	cd "s3_export-$version"
	# Where the libraries are built already, on a machine that has run it before.
	export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target/source}
	make PG_CONFIG="$pg_config"
	make install PG_CONFIG="$pg_config" DESTDIR="$folder/installed"
)
expect "PGXN's archive" "$(cd "$folder/installed" && find . -type f -printf '/%P\n' | sort)"

say "dpkg-buildpackage, from Debian's source package"
# debhelper gives the build another home, in which rustup would look for its compilers. The compiler is none of Debian's (-d).
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} PG_SUPPORTED_VERSIONS=$DEBIAN_MAJOR
(
	cd "$folder"
	dpkg-source --extract "$packages"/s3-export_"$version"-*.dsc source
	cd source
	offline=(unshare --net)
	[ "$(id -u)" -eq 0 ] || offline=(unshare --map-root-user --net)
	unset CARGO_TARGET_DIR
	"${offline[@]}" dpkg-buildpackage -b -d -us -uc
)
package=$(echo "$folder/postgresql-$DEBIAN_MAJOR-s3-export_$version"-*.deb)
expect "Debian's package" "$(dpkg-deb -c "$package" | awk '$1 ~ /^-/ && $6 !~ /^.\/usr\/share\/doc\// { print substr($6, 2) }' | sort)"
dpkg-deb -f "$package" Depends
(cd "$folder" && du -h --apparent-size ./*.deb)
say "The archives build"
