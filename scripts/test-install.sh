#!/usr/bin/env bash
# What a user does first, for the Postgres of PG_MAJOR: `make install`, CREATE EXTENSION, and as a member an export as JSON, one as
# Parquet, and a job. The same again with the .deb and the tarball, for the major version that Debian has, and from the tree of an
# extension image, from 18 on. And what a user does later: an update from each earlier release, and a new version under a session that
# runs. PROFILE=quick takes less time.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

scripts=$ROOT/scripts
"$scripts/setup.sh" test
use_kind test

stop() { "$scripts/servers.sh" stop "$RUN_DIR"; }
trap stop EXIT
stop

psql() { "$S3_EXPORT_PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -h "$S3_EXPORT_PGHOST" -p "$S3_EXPORT_PGPORT" "$@"; }

# export_sql FOLDER FORMAT: a statement that says how many documents it has exported, and how many files.
export_sql() {
	printf "SELECT num_docs_inserted, num_files_written FROM s3_export('s3://%s/%s', 'lake', 'SELECT * FROM orders', format => '%s');\n" \
		"$S3_BUCKET" "$1" "$2"
}

# stored FOLDER SUFFIX: what the objects hold that an export has written, without the manifest.
stored() {
	"$scripts/s3.py" ls "s3://$S3_BUCKET/$1/" | awk -v suffix="$2\$" '$2 ~ suffix { print $2 }' |
		xargs -I{} "$scripts/s3.py" cat "s3://$S3_BUCKET/{}"
}

# first_exports DATABASE [VERSION]: those of a user in a new database; with VERSION, after an update from that one.
first_exports() {
	local documents job create='CREATE EXTENSION s3_export'
	[ -z "${2:-}" ] || create+=" VERSION '$2'; ALTER EXTENSION s3_export UPDATE"
	say "$create, exports and a job, in Postgres $PG_MAJOR"
	psql -U postgres -d postgres -c "CREATE DATABASE $1"
	psql -U postgres -d "$1" -c "$create"
	psql -U postgres -d "$1" <<-'EOF'
		\set key `echo "$S3_ACCESS_KEY_ID"`
		\set secret `echo "$S3_SECRET_ACCESS_KEY"`
		\set endpoint `echo "$S3_ENDPOINT"`
		SELECT s3_export.create_integration('lake', access_key_id => :'key', secret_access_key => :'secret',
		    endpoint => :'endpoint', path_style => true, allowed_locations => '{s3://exports}', usage_role => 'analyst');
		GRANT s3_export_member TO analyst;
		CREATE TABLE orders AS SELECT i AS id, 'name ' || i AS name FROM generate_series(1, 2500) AS i;
		GRANT SELECT ON orders TO analyst;
	EOF
	[ "$(export_sql "$1" json | psql -U analyst -d "$1")" = '2500|3' ] || die "the export as JSON is not what it should be"
	documents=$(stored "$1" 'json' | wc -l)
	[ "$documents" = 2500 ] || die "the bucket holds $documents documents"
	[ "$(export_sql "$1_parquet" parquet | psql -U analyst -d "$1")" = '2500|1' ] || die "the export as Parquet is not what it should be"
	# Without threads: pyarrow's may be running still when the interpreter ends, and abort it.
	documents=$(stored "$1_parquet" parquet | PYTHONPATH=${RUN_DIR%/*}/readers "$STAND_INS_PYTHON" -c '
import io, sys
import pyarrow.parquet
print(pyarrow.parquet.read_table(io.BytesIO(sys.stdin.buffer.read()), use_threads=False, pre_buffer=False).num_rows)')
	[ "$documents" = 2500 ] || die "the file of Parquet holds $documents rows"
	# In a background worker, whose library the server finds by itself.
	job=$(psql -U analyst -d "$1" -c "SELECT s3_export_async('s3://$S3_BUCKET/$1_job', 'lake', 'SELECT * FROM orders', format => 'parquet')")
	[ "$(psql -U analyst -d "$1" -c "SELECT status, documents FROM s3_export.wait('$job', timeout => '1 min')")" = 'COMPLETED|2500' ] ||
		die "the job is not what it should be"
	[ "$(psql -U analyst -d "$1" -c 'SELECT count(*) > 0 FROM s3_export.options()')" = t ] || die "no options"
}

# A session goes on with the library that it has loaded, and with pages of it that it has not used yet.
under_a_session() {
	local answer
	say "Installing again under a session"
	coproc SESSION { psql -U analyst -d installed; }
	# Bash forgets these when the session ends.
	local to=${SESSION[1]} from=${SESSION[0]} session=$SESSION_PID
	export_sql under_a_session json >&"$to"
	read -r answer <&"$from" || answer=nothing
	[ "$answer" = '2500|3' ] || die "the session has exported: $answer"
	PG_CONFIG=$PG_CONFIG "$scripts/install.sh"
	export_sql under_a_session parquet >&"$to"
	read -r answer <&"$from" || answer=nothing
	[ "$answer" = '2500|1' ] || die "after an installation the session has exported: $answer"
	eval "exec $to>&-"
	wait "$session"
}

# uninstall: what is installed next is then all there is.
uninstall() { rm "$("$PG_CONFIG" --pkglibdir)/s3_export.so" "$("$PG_CONFIG" --sharedir)/extension"/s3_export*; }

# from_an_image: the server finds the extension in a folder, as in a volume that an image is mounted as, and not in its own.
from_an_image() {
	local tree=$RUN_DIR/image
	PG_CONFIG=$PG_CONFIG "$scripts/image-tree.sh" "$tree"
	say "The tree of an extension image"
	(cd "$tree" && find . -type f -printf '%9s  %P\n' | sort -k 2)
	uninstall
	# A session that has asked before knows the old answer, so these settings count for new ones.
	psql -U postgres -d postgres -c "ALTER SYSTEM SET extension_control_path = '\$system:$tree/share'" \
		-c "ALTER SYSTEM SET dynamic_library_path = '\$libdir:$tree/lib'" -c 'SELECT pg_reload_conf()' >/dev/null
	first_exports image
}

PG_CONFIG=$PG_CONFIG "$scripts/install.sh"
say "Starting Postgres and SeaweedFS"
"$scripts/servers.sh" start "$RUN_DIR"
settings=$("$scripts/servers.sh" env "$RUN_DIR")
eval "$settings"
psql -U postgres -d postgres -c 'CREATE ROLE analyst LOGIN'
first_exports installed
# Whose SQL is there.
for script in "$ROOT"/sql/s3_export--*.sql; do
	release=${script##*/s3_export--}
	release=${release%.sql}
	[[ $release == *--* ]] || first_exports "from_${release//./_}" "$release"
done
under_a_session
[ "$PG_MAJOR" -lt 18 ] || from_an_image

if [ "$PG_MAJOR" = "$DEBIAN_MAJOR" ]; then
	env -u PG_CONFIG "$scripts/package.sh"
	(cd "$ROOT/target/package" && sha256sum --quiet --check SHA256SUMS)
	version=$(extension_version)
	name=postgresql-$PG_MAJOR-s3-export
	package=$(echo "$ROOT/target/package/${name}_${version}"_*.deb)
	symbols=$(echo "$ROOT/target/package/$name-dbgsym_${version}"_*.deb)
	depends=$(dpkg-deb -f "$package" Depends)
	say "The package, which depends on $depends"
	for dependency in "postgresql-$PG_MAJOR" ca-certificates libc6; do
		grep -qw -- "$dependency" <<<"$depends" || die "the package does not depend on $dependency"
	done
	uninstall
	# The copy of Postgres has Debian's tree below it.
	dpkg-deb -x "$package" "$PG_COPY"
	build_id=$(readelf -n "$("$PG_CONFIG" --pkglibdir)/s3_export.so" | sed -n 's/.*Build ID: //p')
	symbol_files=$(dpkg-deb -c "$symbols")
	grep -q "/${build_id:0:2}/${build_id:2}.debug$" <<<"$symbol_files" || die "the symbols are not those of the package"
	first_exports packaged
	say "The tarball, by the commands in its INSTALL"
	uninstall
	folder=s3_export-$version-pg$PG_MAJOR-linux-$(uname -m)
	tar -xzf "$ROOT/target/package/$folder.tar.gz" -C "$RUN_DIR"
	(cd "$RUN_DIR/$folder" && PATH=${PG_CONFIG%/*}:$PATH bash -ex <(grep '^    ' INSTALL))
	rm -r "${RUN_DIR:?}/$folder"
	first_exports from_tarball
fi
say "Installed, and exported, on Postgres $PG_MAJOR"
