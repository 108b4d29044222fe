#!/usr/bin/env bash
# servers.sh start|stop|status|env|clean DIR: a private Postgres and a private S3 server (SeaweedFS), on
# 127.0.0.1 and free ports, so that tests and demo touch nothing of the machine's; for the tests also two stand-ins for
# AWS, which have STS and IAM. All are thrown away and made anew by each start; `env` prints where they are. DIR is what
# setup.sh prepared (target/test, target/demo, target/bench).
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

command=${1:-}
[ -d "${2:-}" ] || die "usage: servers.sh start|stop|status|env|clean DIR"
dir=$(cd "$2" && pwd -P)
kind=${dir##*/}
kind=${kind%%-*}
bin=$dir/postgres/usr/lib/postgresql/$PG_MAJOR/bin
weed=${dir%/*}/seaweedfs/weed
packages=${dir%/*}/aws-stand-ins
data=$dir/data
s3_data=$dir/s3
state=$dir/servers.env
bucket=exports
# Two, because each checks what the other lets pass (scripts/aws.py says what).
stand_ins=()
[ "$kind" != test ] || stand_ins=(ministack moto)
# The caller's AWS_*, proxies and the like are neither for them nor for aws.py.
stand_in_env=(env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 HOME="$dir" PYTHONPATH="$packages")

postgres_runs() { as_pg "$bin/pg_ctl" status -D "$data" >/dev/null 2>&1; }

# By name too, since a pid outlives a reboot in its file.
s3_runs() { [ -s "$s3_data/pid" ] && [ "$(cat "/proc/$(cat "$s3_data/pid")/comm" 2>/dev/null)" = weed ]; }

# By its arguments too, for the same reason.
stand_in_runs() {
	local pid=$dir/$1/pid
	[ -s "$pid" ] && grep -qsaF "$1" "/proc/$(cat "$pid")/cmdline"
}

all_run() {
	local name
	postgres_runs && s3_runs || return
	for name in "${stand_ins[@]}"; do stand_in_runs "$name" || return; done
}

# background DIR LOG COMMAND...: as the unprivileged user in DIR, with its process id there. In a session of its own:
# Ctrl-C in the terminal is for the script, which then stops the server.
background() {
	# shellcheck disable=SC2016
	as_pg sh -c 'cd "$1" && log=$2 && shift 2 && { setsid "$@" >"$log" 2>&1 </dev/null & echo $! >pid; }' sh "$@"
}

start_postgres() {
	local port=$1 sockets=$2
	as_pg "$bin/initdb" -D "$data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync \
		>"$dir/initdb.log" 2>&1 || die "initdb failed: $(tail -n 20 "$dir/initdb.log")"
	cat >>"$data/postgresql.conf" <<-EOF
		listen_addresses = '127.0.0.1'
		port = $port
		unix_socket_directories = '$sockets'
		fsync = off
		log_line_prefix = '%m [%p] %q%u@%d '
		max_connections = 100
		shared_buffers = 256MB
		max_prepared_transactions = 5
		max_worker_processes = 32
		wal_level = replica
		wal_keep_size = 256MB
		s3_export.key_file = '$dir/s3_export.keys'
	EOF
	# All of the benchmark's tables in memory, so that no disk is measured; a scan of less than a quarter stays there.
	[ "$kind" != bench ] || printf '%s\n' "shared_buffers = 4GB" "max_wal_size = 16GB" "jit = off" >>"$data/postgresql.conf"
	# Where a secret given through SQL would be kept.
	[ ${#stand_ins[@]} -eq 0 ] || echo "shared_preload_libraries = 'pg_stat_statements'" >>"$data/postgresql.conf"
	echo "k1 $(head -c 32 /dev/urandom | base64)" | private_file "$dir/s3_export.keys"
	private_file "$dir/postgres.log" </dev/null
	# The server's own AWS credentials are the file's, on any machine.
	as_pg env -u AWS_PROFILE -u AWS_ACCESS_KEY_ID -u AWS_SECRET_ACCESS_KEY -u AWS_SESSION_TOKEN AWS_EC2_METADATA_DISABLED=true \
		AWS_CONFIG_FILE="$dir/aws-config" AWS_SHARED_CREDENTIALS_FILE="$dir/aws-credentials" \
		"$bin/pg_ctl" start -s -w -t 60 -D "$data" -l "$dir/postgres.log" ||
		die "Postgres does not start: $(tail -n 20 "$dir/postgres.log")"
}

# Why these flags:
#   server, not mini           mini makes a missing bucket on the first PUT; here a typing error stays an error
#   every port by name         each part would else take its port + 10000 as well
#   many volumes, small ones   a bucket takes volumes of its own, and none may run out in a test of many GB
#   the rest                   nothing listens or phones home unasked
start_s3() {
	local port=$1 sockets=$2
	shift 2
	local flags=(-dir="$s3_data" -ip=127.0.0.1 -ip.bind=127.0.0.1
		-master.port="$1" -master.port.grpc="$2" -master.telemetry=false
		-master.volumeSizeLimitMB=1024 -master.volumePreallocate=false
		-volume.port="$3" -volume.port.grpc="$4" -volume.max=10000
		-filer -filer.port="$5" -filer.port.grpc="$6" -filer.localSocket="$sockets/filer"
		-s3 -s3.port="$port" -s3.port.grpc="$7" -s3.port.iceberg=0 -s3.port.lance=0 -s3.localSocket="$sockets/s3"
		-s3.config="$dir/s3.json" -s3.iam=false -s3.autoCreateBucket=false)
	private_file "$dir/s3.json" <<-EOF
		{"identities": [{"name": "s3_export",
		  "credentials": [{"accessKey": "$S3_ACCESS_KEY_ID", "secretKey": "$S3_SECRET_ACCESS_KEY"}],
		  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
	EOF
	private_dir "$s3_data"
	private_file "$dir/s3.log" </dev/null
	background "$s3_data" "$dir/s3.log" "$weed" -logtostderr=true server "${flags[@]}"
	local try error=
	for try in {1..120}; do
		s3_runs || [ "$try" -lt 4 ] || break
		# An object has to go in as well: the gateway answers before it has a volume to write to.
		if error=$({ "$ROOT/scripts/s3.py" make-bucket "$bucket" || true; } 2>&1 &&
			echo ready | "$ROOT/scripts/s3.py" put "s3://$bucket/.ready" 2>&1 &&
			"$ROOT/scripts/s3.py" rm "s3://$bucket/.ready" 2>&1); then
			return
		fi
		sleep 0.5
	done
	die "SeaweedFS does not answer: $error; $(tail -n 20 "$dir/s3.log")"
}

# start_stand_in NAME PORT: what it holds, it holds in memory.
start_stand_in() {
	local home=$dir/$1 arguments
	case $1 in
	ministack)
		# Else it would take any key, listen for all the world, and open a port for MQTT as well.
		arguments=(AUTH=true BIND_HOST=127.0.0.1 GATEWAY_PORT="$2" IOT_MTLS_ENABLED=0
			"$STAND_INS_PYTHON" -m ministack)
		;;
	moto)
		# It takes any key as well, until aws.py puts an end to that.
		arguments=("$STAND_INS_PYTHON" -m moto.server -H 127.0.0.1 -p "$2")
		;;
	esac
	rm -rf "$home"
	private_dir "$home"
	private_file "$dir/$1.log" </dev/null
	background "$home" "$dir/$1.log" "${stand_in_env[@]}" TMPDIR="$home" "${arguments[@]}"
}

# furnish_stand_ins MINISTACK_PORT MOTO_PORT
furnish_stand_ins() {
	local name port try settings value
	for name in "${stand_ins[@]}"; do
		port=$1
		[ "$name" = ministack ] || port=$2
		for try in {1..600}; do
			! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
			stand_in_runs "$name" || break
			sleep 0.1
		done
		die "$name does not answer: $(tail -n 20 "$dir/$name.log")"
	done
	settings=$("${stand_in_env[@]}" "$STAND_INS_PYTHON" "$ROOT/scripts/aws.py" \
		"http://127.0.0.1:$1" "http://127.0.0.1:$2") ||
		die "ministack and moto cannot be furnished: $(tail -n 5 "$dir/ministack.log" "$dir/moto.log")"
	while read -r name value; do printf 'export %s=%q\n' "$name" "$value"; done <<<"$settings" >>"$state"
	# shellcheck source=/dev/null
	(. "$state" && private_file "$dir/aws-credentials" <<-EOF
		[default]
		aws_access_key_id = $S3_EXPORT_MINISTACK_ACCESS_KEY_ID
		aws_secret_access_key = $S3_EXPORT_MINISTACK_SECRET_ACCESS_KEY
		[moto]
		aws_access_key_id = $S3_EXPORT_MOTO_ACCESS_KEY_ID
		aws_secret_access_key = $S3_EXPORT_MOTO_SECRET_ACCESS_KEY
	EOF
	)
}

start() {
	if all_run; then
		say "All servers already run in $dir"
		return
	fi
	[[ -x $weed && -x $bin/initdb && (${#stand_ins[@]} -eq 0 || -e $packages/stamp) ]] ||
		die "not set up: run scripts/setup.sh $kind"
	stop
	rm -rf "$data" "$s3_data"
	private_dir "$data"
	local ports sockets
	read -ra ports <<<"$(free_ports 11)"
	sockets=$(socket_dir "$dir/sockets")
	S3_ACCESS_KEY_ID=$(head -c 15 /dev/urandom | base64 | tr '+/' 'xy')
	S3_SECRET_ACCESS_KEY=$(head -c 30 /dev/urandom | base64)
	export S3_ENDPOINT=http://127.0.0.1:${ports[1]} S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY
	install -m 600 /dev/null "$state"
	printf 'export %s=%q\n' >"$state" \
		S3_EXPORT_PGHOST "$sockets" S3_EXPORT_PGPORT "${ports[0]}" S3_EXPORT_PG_BIN "$bin" \
		S3_EXPORT_PG_USER_OS "$PG_OS_USER" S3_EXPORT_DATA "$data" S3_EXPORT_RUN_DIR "$dir" \
		S3_EXPORT_READERS "${dir%/*}/readers" \
		S3_EXPORT_OLD_READERS "${dir%/*}/old-readers" \
		S3_ENDPOINT "$S3_ENDPOINT" S3_ACCESS_KEY_ID "$S3_ACCESS_KEY_ID" \
		S3_SECRET_ACCESS_KEY "$S3_SECRET_ACCESS_KEY" S3_BUCKET "$bucket"
	# They come up while the others do.
	local name next=9
	for name in "${stand_ins[@]}"; do
		start_stand_in "$name" "${ports[next]}"
		next=$((next + 1))
	done
	start_postgres "${ports[0]}" "$sockets"
	start_s3 "${ports[1]}" "$sockets" "${ports[@]:2:7}"
	[ ${#stand_ins[@]} -eq 0 ] || furnish_stand_ins "${ports[@]:9}"
}

stop() {
	local name
	if postgres_runs; then
		# A backend that a test has wedged must not outlive it.
		as_pg "$bin/pg_ctl" stop -s -m fast -t 30 -D "$data" || as_pg "$bin/pg_ctl" stop -s -m immediate -D "$data"
	fi
	if s3_runs; then
		# Its orderly stop takes 15 seconds, for data that the next start throws away.
		kill -9 "$(cat "$s3_data/pid")"
		while s3_runs; do sleep 0.1; done
	fi
	for name in "${stand_ins[@]}"; do
		if stand_in_runs "$name"; then
			kill -9 "$(cat "$dir/$name/pid")"
			while stand_in_runs "$name"; do sleep 0.1; done
		fi
	done
	if [ -e "$state" ]; then
		# shellcheck source=/dev/null
		S3_EXPORT_PGHOST=$(. "$state" && echo "$S3_EXPORT_PGHOST")
		rm -rf "$S3_EXPORT_PGHOST" "$state"
	fi
	# SeaweedFS puts these where no flag reaches, and a killed one leaves them.
	if [ -e "$dir/s3.log" ]; then
		{ grep -o '/tmp/seaweedfs-[a-z0-9]*-grpc-[0-9]*\.sock' "$dir/s3.log" || true; } | sort -u | xargs -r rm -f
	fi
}

status() {
	local result=0 name
	if postgres_runs; then echo "Postgres: running"; else echo "Postgres: stopped" && result=3; fi
	if s3_runs; then echo "S3: running"; else echo "S3: stopped" && result=3; fi
	for name in "${stand_ins[@]}"; do
		if stand_in_runs "$name"; then echo "$name: running"; else echo "$name: stopped" && result=3; fi
	done
	return "$result"
}

case $command in
start | stop | status) "$command" ;;
env) cat "$state" 2>/dev/null || die "no servers run in $dir" ;;
clean)
	stop
	rm -rf "$data" "$s3_data" "$dir"/{ministack,moto} "$dir"/{initdb,postgres,s3,ministack,moto}.log \
		"$dir/s3.json" "$dir/s3_export.keys" "$dir/aws-credentials"
	;;
*) die "unknown command: $command" ;;
esac
