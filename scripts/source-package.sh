#!/usr/bin/env bash
# The source of the last commit as archives, into target/package: the zip that PGXN takes, and a Debian source package in PGDG's
# manner. Its second tarball holds the libraries that the extension is built from, so that a build fetches nothing.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/setup.sh" package
cd "$ROOT"
git diff --quiet HEAD || die "the work tree has changes that no commit has"
version=$(extension_version)
name=s3-export_$version
top=s3_export-$version
out=$ROOT/target/package
work=$out/work-source
rm -rf "$work"
mkdir -p "$work"

say "The archive for PGXN"
git archive --format=zip --prefix="$top/" --output="$out/$top.zip" HEAD

say "The libraries"
cargo vendor --quiet --locked --versioned-dirs "$work/vendor" >/dev/null
# Those of a build of the extension, on any Linux that Postgres is packaged for.
features=$(sed -n 's/^\(pg[0-9]*\) = .*/\1/p' Cargo.toml | tr '\n' ' ')
for target in x86_64 aarch64 powerpc64le riscv64gc s390x; do
	cargo tree --locked -p s3_export --no-default-features --features "$features" -e normal,build \
		--target "$target-unknown-linux-gnu" --prefix none -f '{p}'
done | awk '{ print $1 "-" substr($2, 2) }' | sort -u >"$work/needed"
# Of the others Cargo reads the manifest, to resolve, and nothing else: those for Windows alone are most of the bytes.
for folder in "$work/vendor"/*/; do
	! grep -qxF "$(basename "$folder")" "$work/needed" || continue
	find "$folder" -mindepth 1 -maxdepth 1 ! -name Cargo.toml ! -name .cargo-checksum.json -exec rm -rf {} +
	mkdir "$folder/src"
	: >"$folder/src/lib.rs"
	sed -i 's/"files":{[^}]*}/"files":{}/' "$folder/.cargo-checksum.json"
done

say "The source package for Debian"
# The same bytes each time.
time=$(git log -1 --format=%ct)
git archive --format=tar --prefix="$top/" HEAD -- . ':!debian' | gzip -n >"$work/$name.orig.tar.gz"
tar -C "$work" --sort=name --mtime="@$time" --owner=0 --group=0 --numeric-owner -c vendor | xz -T0 >"$work/$name.orig-vendor.tar.xz"
mkdir "$work/$top"
git archive --format=tar HEAD | tar -x -C "$work/$top"
mv "$work/vendor" "$work/$top"
(cd "$work" && dpkg-source --build "$top")
rm -f "$out/$name"[.-]*
mv "$work/$name"* "$out"
rm -rf "$work"
write_checksums "$out"
say "In target/package"
(cd "$out" && du -h --apparent-size "$top.zip" "$name"*)
