#!/usr/bin/env bash
# The site of the documentation, in target/docs, made by mdBook; and a check that its links and its search work.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

"$ROOT/scripts/setup.sh" docs
cd "$ROOT"
say "Building the site"
source=target/docs-source
scripts/site.py prepare "$source"
rm -rf target/docs
# A warning of mdBook is a fault of a page, such as a tag that is never closed.
"$MDBOOK" build "$source" 2>&1 | tee "$source/output"
! grep -qE 'WARN|ERROR' "$source/output" || die "mdBook warns"
say "Checking its links, and its search in Chromium"
scripts/site.py check target/docs
say "Open target/docs/index.html"
