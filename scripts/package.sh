#!/usr/bin/env bash
# A .deb for the running Debian, and a tarball for others of its C library's age, for the Postgres of PG_CONFIG (default: Debian's).
# Debug symbols come in packages of their own, found by build id. Everything lands in target/package.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

if [ -z "${PG_CONFIG:-}" ]; then
	grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release || die "say PG_CONFIG=/usr/lib/postgresql/…/bin/pg_config"
	"$ROOT/scripts/setup.sh" demo
fi
for tool in dpkg-shlibdeps readelf objcopy strip python3; do
	command -v "$tool" >/dev/null || die "$tool is missing (Debian: dpkg-dev, binutils, python3)"
done
find_postgres "${PG_CONFIG:-/usr/lib/postgresql/$DEBIAN_MAJOR/bin/pg_config}"
version=$(extension_version)
architecture=$(dpkg --print-architecture)
name=postgresql-$major-s3-export
out=$ROOT/target/package
work=$out/work-$major
library=$("$pg_config" --pkglibdir)/s3_export.so
extension=$("$pg_config" --sharedir)/extension

# They link to each other by name, so that none is compressed, and each keeps its folder.
documents=(ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md LICENSE README.md SECURITY.md benches/README.md docker docs)

cd "$ROOT"
need_compilers
pgrx_env "$out/pgrx" "$pg_config"
write_pgrx_config "$major"
rm -rf "$work"
mkdir -p "$work"
say "Building s3_export $version for $("$pg_config" --version)"
PG_CONFIG=$pg_config install_extension packaged "pg$major" "$work/whole"

say "Splitting debug symbols off"
build_id=$(readelf -n "$work/whole$library" | sed -n 's/.*Build ID: //p')
[ -n "$build_id" ] || die "the library has no build id, by which debuggers find its symbols"
symbols=usr/lib/debug/.build-id/${build_id:0:2}/${build_id:2}.debug
install -D -m 644 /dev/null "$work/symbols/$symbols"
objcopy --only-keep-debug --compress-debug-sections "$work/whole$library" "$work/symbols/$symbols"
chmod 644 "$work/symbols/$symbols"
install -D -m 644 "$work/whole$library" "$work/stripped/lib/s3_export.so"
strip --strip-unneeded "$work/stripped/lib/s3_export.so"
install -D -m 644 -t "$work/stripped/extension" "$work/whole$extension"/s3_export*
python3 scripts/licences.py "pg$major" >"$work/THIRD-PARTY-LICENCES"

# package NAME SECTION DESCRIPTION DEPENDS <a tree in $work/NAME
package() {
	local root=$work/$1
	# All licences in the one file that images which leave documentation out keep.
	cat LICENSE "$work/THIRD-PARTY-LICENCES" | install -D -m 644 /dev/stdin "$root/usr/share/doc/$1/copyright"
	{
		printf 'Package: %s\nVersion: %s\nArchitecture: %s\nSection: %s\nPriority: optional\n' "$1" "$version" "$architecture" "$2"
		printf 'Maintainer: The s3_export developers <s3-export@localhost>\nDepends: %s\n' "$4"
		printf 'Installed-Size: %s\nDescription: %s\n' "$(du -sk "$root" | cut -f 1)" "$3"
	} | install -D -m 644 /dev/stdin "$root/DEBIAN/control"
	dpkg-deb --root-owner-group -Zxz --build "$root" "$out/${1}_${version}_$architecture.deb" >/dev/null
}

say "Packing"
install -D -m 644 "$work/stripped/lib/s3_export.so" "$work/$name$library"
install -D -m 644 -t "$work/$name$extension" "$work/stripped/extension"/*
install -d "$work/$name/usr/share/doc/$name"
cp -r --parents "${documents[@]}" "$work/$name/usr/share/doc/$name"
# dpkg-shlibdeps wants the tree of a source package around it.
mkdir -p "$work/debian"
printf 'Source: s3-export\n\nPackage: %s\nArchitecture: any\n' "$name" >"$work/debian/control"
libraries=$(cd "$work" && dpkg-shlibdeps -O "$work/$name$library" | sed -n 's/^shlibs:Depends=//p') ||
	die "dpkg-shlibdeps does not know the libraries of $library"
package "$name" database "export a SELECT from PostgreSQL $major to Amazon S3
 Runs a query and writes its rows to S3 as type-preserving JSON, CSV or Parquet:
 complete or absent, never partial. Credentials are sealed in a catalog under a
 name, and privileges are plain GRANTs." "postgresql-$major, ca-certificates, $libraries"
mv "$work/symbols" "$work/$name-dbgsym"
package "$name-dbgsym" debug "debug symbols for $name" "$name (= $version)"

folder=s3_export-$version-pg$major-linux-$(uname -m)
mkdir "$work/$folder"
cp -r "$work/stripped"/* "$work/THIRD-PARTY-LICENCES" "$work/$folder"
cp -r --parents "${documents[@]}" "$work/$folder"
cat >"$work/$folder/INSTALL" <<-'EOF'
	As root, with the pg_config of the Postgres to install into:

	    install -m 644 lib/s3_export.so "$(pg_config --pkglibdir)"
	    install -m 644 extension/* "$(pg_config --sharedir)/extension"
EOF
tar -C "$work" --owner=0 --group=0 -czf "$out/$folder.tar.gz" "$folder"
tar -C "$work/$name-dbgsym/usr/lib" --owner=0 --group=0 -czf "$out/$folder-debug.tar.gz" debug
rm -rf "$work"

say "In target/package"
(cd "$out" && du -h --apparent-size ./*"$version"*)
