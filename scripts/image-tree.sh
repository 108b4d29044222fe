#!/usr/bin/env bash
# image-tree.sh TREE: what an extension image for CloudNativePG holds, of the s3_export that is installed in the Postgres of PG_CONFIG
# (below DESTDIR, where that is set). Postgres 18 reads such a folder where it is mounted, by extension_control_path and
# dynamic_library_path; docker/Dockerfile.extension puts it into an image.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

tree=${1:-}
[ -n "$tree" ] || die "usage: image-tree.sh TREE"
mkdir -p "$tree"
tree=$(cd "$tree" && pwd -P)
find_postgres "${PG_CONFIG:-pg_config}"
[ "$major" -ge 18 ] || die "Postgres $major has no extension_control_path: it came with 18"
library=${DESTDIR:-}$("$pg_config" --pkglibdir)/s3_export.so
[ -e "$library" ] || die "no $library: install s3_export first"

# Files of an earlier version must not stay.
rm -rf "${tree:?}"/{lib,share,licenses}
mkdir -p "$tree/share/extension" "$tree/licenses/s3_export"
install -D -m 644 -t "$tree/lib" "$library"
install -m 644 -t "$tree/share/extension" "${DESTDIR:-}$("$pg_config" --sharedir)/extension"/s3_export*
install -m 644 -t "$tree/licenses/s3_export" "$ROOT/LICENSE"
cd "$ROOT"
python3 scripts/licences.py "pg$major" >"$tree/licenses/s3_export/THIRD-PARTY-LICENCES"
