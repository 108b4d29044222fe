#!/usr/bin/env bash
# package.sh [deb]: packages for the Postgres of PG_CONFIG (default: Debian's), into target/package: a .deb for the running Debian, a
# tarball for others of its C library's age, an RPM, where rpmbuild is there, and from Postgres 18 on the tree of an extension image.
# Beside them lie their checksums, and an SBOM. Debug symbols come in packages of their own, found by build id. With `deb` it makes
# the .deb alone. PROFILE is another profile of Cargo.toml.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

only=${1:-}
[[ -z $only || $only == deb ]] || die "usage: package.sh [deb]"
if [ -z "${PG_CONFIG:-}" ]; then
	grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release || die "say PG_CONFIG=/usr/lib/postgresql/…/bin/pg_config"
	"$ROOT/scripts/setup.sh" package
fi
for tool in dpkg-shlibdeps readelf objcopy strip python3; do
	command -v "$tool" >/dev/null || die "$tool is missing (Debian: dpkg-dev, binutils, python3)"
done
find_postgres "${PG_CONFIG:-/usr/lib/postgresql/$DEBIAN_MAJOR/bin/pg_config}"
version=$(extension_version)
architecture=$(dpkg --print-architecture)
name=postgresql-$major-s3-export
file=s3_export-$version-pg$major
out=$ROOT/target/package
work=$out/work-$major
# Where pg_config says, in the folders that the build is put into; where Debian and PGDG say, in packages.
library=$("$pg_config" --pkglibdir)/s3_export.so
extension=$("$pg_config" --sharedir)/extension

# They link to each other by name, so that none is compressed, and each keeps its folder.
documents=(ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md LICENSE README.md SECURITY.md benches/README.md docker docs)

cd "$ROOT"
need_compilers
[ "$only" = deb ] || need_cyclonedx
pgrx_env "$pg_config"
rm -rf "$work"
mkdir -p "$work"
say "Building s3_export $version for $("$pg_config" --version)"
PG_CONFIG=$pg_config install_extension "${PROFILE:-packaged}" "pg$major" "$work/whole"

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

# installed TREE LIBRARIES EXTENSION: what Postgres reads, where a package has it.
installed() {
	install -D -m 644 -t "$work/$1/$2" "$work/stripped/lib/s3_export.so"
	install -D -m 644 -t "$work/$1/$3" "$work/stripped/extension"/*
}

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
installed "$name" "usr/lib/postgresql/$major/lib" "usr/share/postgresql/$major/extension"
install -d "$work/$name/usr/share/doc/$name"
cp -r --parents "${documents[@]}" "$work/$name/usr/share/doc/$name"
# dpkg-shlibdeps wants the tree of a source package around it.
mkdir -p "$work/debian"
printf 'Source: s3-export\n\nPackage: %s\nArchitecture: any\n' "$name" >"$work/debian/control"
libraries=$(cd "$work" && dpkg-shlibdeps -O stripped/lib/s3_export.so | sed -n 's/^shlibs:Depends=//p') ||
	die "dpkg-shlibdeps does not know the libraries of $library"
package "$name" database "export a SELECT from PostgreSQL $major to Amazon S3
 Runs a query and writes its rows to S3 as type-preserving JSON, CSV or Parquet:
 complete or absent, never partial. Credentials are sealed in a catalog under a
 name, and privileges are plain GRANTs." "postgresql-$major, ca-certificates, $libraries"
mv "$work/symbols" "$work/$name-dbgsym"
package "$name-dbgsym" debug "debug symbols for $name" "$name (= $version)"
if [ "$only" = deb ]; then
	rm -rf "$work"
	exit
fi

folder=$file-linux-$(uname -m)
mkdir "$work/$folder"
cp -r "$work/stripped"/* "$work/THIRD-PARTY-LICENCES" "$work/$folder"
cp -r --parents "${documents[@]}" "$work/$folder"
cat >"$work/$folder/INSTALL" <<-'END'
	As root, with the pg_config of the Postgres to install into:

	    install -m 644 lib/s3_export.so "$(pg_config --pkglibdir)"
	    install -m 644 extension/* "$(pg_config --sharedir)/extension"
END
tar -C "$work" --owner=0 --group=0 -czf "$out/$folder.tar.gz" "$folder"
tar -C "$work/$name-dbgsym/usr/lib" --owner=0 --group=0 -czf "$out/$folder-debug.tar.gz" debug

# rpm: the paths are those of PGDG's packages.
rpm_package() {
	local rpm_name=s3_export_$major tree=$work/rpm-tree base=usr/pgsql-$major expected packed
	installed rpm-tree "$base/lib" "$base/share/extension"
	mkdir -p "$tree/usr/share/doc/$rpm_name"
	cp -r --parents "${documents[@]}" "$tree/usr/share/doc/$rpm_name"
	install -D -m 644 -t "$tree/usr/share/licenses/$rpm_name" LICENSE "$work/THIRD-PARTY-LICENCES"
	rpmbuild -bb --quiet --define "_topdir $work/rpm" --define "extension_version $version" --define "major $major" \
		--define "tree $tree" packaging/s3_export.spec
	packed=$(rpm -qlp "$work/rpm/RPMS"/*/*.rpm | sort)
	# The package has its own two folders as well.
	expected=$({ cd "$tree" && find . -type f && find "usr/share/doc/$rpm_name" "usr/share/licenses/$rpm_name" -type d; } |
		sed 's|^\(\./\)\?|/|' | sort)
	[ "$packed" = "$expected" ] || die "the RPM has other files than it should: $(diff <(echo "$expected") <(echo "$packed"))"
	mv "$work/rpm/RPMS"/*/*.rpm "$out"
}
if command -v rpmbuild >/dev/null; then rpm_package; else echo "No RPM: rpmbuild is missing (Debian: rpm)."; fi

if [ "$major" -ge 18 ]; then
	install -D -m 644 "$work/stripped/lib/s3_export.so" "$work/image$library"
	install -D -m 644 -t "$work/image$extension" "$work/stripped/extension"/*
	PG_CONFIG=$pg_config DESTDIR=$work/image scripts/image-tree.sh "$out/$file-image-$(uname -m)"
fi

say "The list of what is linked into the library (SBOM)"
# The tool writes a list for each package of the workspace, beside its manifest.
"$CYCLONEDX" cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --no-default-features --features "pg$major" \
	--override-filename s3_export-sbom
# It names the folder of the build.
sed "s|$ROOT|/s3_export|g" s3_export-sbom.json >"$out/$file.cdx.json"
find . -maxdepth 3 -name s3_export-sbom.json -delete
rm -rf "$work"

say "In target/package"
write_checksums "$out"
(cd "$out" && du -h --apparent-size -s ./*"$version"*)
