#!/usr/bin/env bash
# Release build into a Postgres that is already there: the one PG_CONFIG names, of any major version we support.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

pg_config=$(command -v "${PG_CONFIG:-pg_config}") || die "no ${PG_CONFIG:-pg_config}: say PG_CONFIG=/path/to/pg_config"
pg_config=$(realpath -s "$pg_config")
[ -e "$("$pg_config" --includedir-server)/postgres.h" ] ||
	die "the server's headers are missing: install the development package of $("$pg_config" --version)"
major=$("$pg_config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
cd "$ROOT"
grep -q "^pg$major = " Cargo.toml || die "Postgres $major is not supported"

need_cargo_pgrx
pgrx_env "$ROOT/target/install/pgrx" "$pg_config"
write_pgrx_config "$major"
sudo=()
for dir in "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)/extension"; do
	[ -w "$dir" ] || sudo=(--sudo)
done
say "Building s3_export and installing it into $("$pg_config" --version)"
cargo pgrx install --release "${sudo[@]}" --no-default-features --features "pg$major" -c "$pg_config"
