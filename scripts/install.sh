#!/usr/bin/env bash
# Release build into a Postgres that is already there: the one PG_CONFIG names, of any major version we support.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

find_postgres "${PG_CONFIG:-pg_config}"
cd "$ROOT"
need_cargo_pgrx
pgrx_env "$ROOT/target/install/pgrx" "$pg_config"
write_pgrx_config "$major"
sudo=()
for dir in "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)/extension"; do
	[ -w "$dir" ] || sudo=(--sudo)
done
say "Building s3_export and installing it into $("$pg_config" --version)"
cargo pgrx install --release "${sudo[@]}" --no-default-features --features "pg$major" -c "$pg_config"
