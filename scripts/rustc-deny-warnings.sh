#!/bin/sh
# rustc for the code of this repository (Cargo's RUSTC_WORKSPACE_WRAPPER), with warnings denied.
exec "$@" -D warnings
