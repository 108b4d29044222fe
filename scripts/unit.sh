#!/usr/bin/env bash
# The tests of the core: no Postgres, no server, nothing to set up but Rust. Arguments: names, of which the tests that match run.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

need_compilers
cd "$ROOT"
# The feature makes Cargo build the dependencies as the extension's tests need them, so that they are built once for both.
# Many at once, since those of the uploads wait for most of their time.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-12} cargo test "${CARGO_FLAGS[@]}" --locked -p s3_export_core --features build_once -- "$@"
