#!/usr/bin/env bash
# The core's `unsafe` code, and what reads the bytes that Postgres has stored, under Miri, which finds undefined behaviour that a test
# cannot see. Optional: it needs the nightly toolchain. C code of dependencies is built, and not called.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

if ! cargo +nightly miri --version >/dev/null 2>&1; then
	echo "Skipped: no Miri here (rustup toolchain install nightly --component miri --component rust-src)."
	exit 0
fi
need_compilers
cd "$ROOT"
# Miri takes hundreds of times as long as the processor does, so a few cases of each property are enough. Properties that failed
# before are looked up in files, which isolation would refuse.
export MIRIFLAGS=${MIRIFLAGS:--Zmiri-disable-isolation} PROPTEST_CASES=${PROPTEST_CASES:-8} CARGO_TARGET_DIR=$ROOT/target/miri
cargo +nightly miri test --locked -p s3_export_core --lib -- \
	text::cursor text::buffer text::numeric text::jsonb text::wkb text::inet text::datetime text::interval text::number
