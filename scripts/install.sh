#!/usr/bin/env bash
# install.sh [build]: a release build into the Postgres of PG_CONFIG, of any major version we support; `build` leaves out the
# installing, for who may not write there and lets root do that, who may have no Rust. DESTDIR is a folder to install below, for those
# who make packages; PROFILE is another profile of Cargo.toml.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

find_postgres "${PG_CONFIG:-pg_config}"
cd "$ROOT"
tree=$ROOT/target/install/pg$major
libraries=$("$pg_config" --pkglibdir)
extension=$("$pg_config" --sharedir)/extension

if command -v cargo >/dev/null || [ ! -e "$tree$libraries/s3_export.so" ]; then
	need_compilers
	pgrx_env "$pg_config"
	say "Building s3_export for $("$pg_config" --version)"
	PG_CONFIG=$pg_config install_extension "${PROFILE:-release}" "pg$major" "$tree"
fi
[ "${1:-}" != build ] || exit 0

below=${DESTDIR:-}
say "Installing s3_export into $("$pg_config" --version)${below:+, below $below}"
[ -z "$below" ] || mkdir -p "$below$libraries" "$below$extension"
install=(install)
for dir in "$below$libraries" "$below$extension"; do
	[ -w "$dir" ] || install=(as_root install)
done
# A new file each, as install(1) makes them: overwriting a library in place would crash sessions that run from it.
"${install[@]}" -m 755 -t "$below$libraries" "$tree$libraries/s3_export.so"
"${install[@]}" -m 644 -t "$below$extension" "$tree$extension"/s3_export*
