# The commands of this project. Each does its own set-up on a fresh Debian machine with Rust.

SHELL := bash
.DEFAULT_GOAL := all
# Cargo.toml has the list of supported majors, as features; scripts/common.sh has the one that Debian has, scripts/setup.sh those that
# there are builds of. Of the others no server can be had here: they are type-checked.
SUPPORTED := $(shell sed -n 's/^pg\([0-9]*\) = .*/\1/p' Cargo.toml)
DEBIAN := $(shell sed -n 's/^DEBIAN_MAJOR=//p' scripts/common.sh)
TESTED := $(DEBIAN) $(shell grep '^declare -A POSTGRES_BUILDS=' scripts/setup.sh | grep -oE '\[[0-9]+\]' | tr -d '[]')
CHECKED := $(filter-out $(TESTED),$(SUPPORTED))
.PHONY: help all demo demo-stop unit miri test test-majors check-majors test-install soak lint docs audit bench bench-encoders bench-instructions install clean package source-package test-source clean-servers

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 22

demo: ## export a million rows to a local S3 server (KEEP=1: leave both servers running)
	@scripts/demo.sh

demo-stop: ## stop what `make demo KEEP=1` left running
	@. scripts/common.sh && use_kind demo && scripts/servers.sh stop "$$RUN_DIR"

unit: ## the tests that need no Postgres and no server, in seconds (TESTS=name: those that match)
	@scripts/unit.sh $(TESTS)

miri: ## the core's readers of stored values and its cursor under Miri, which finds undefined behaviour (nightly Rust)
	@scripts/miri.sh

test: ## every test (TESTS=name: those that match; PG_MAJOR=17: on that version)
	@scripts/test.sh

test-majors: ## a build without warnings and the tests that another version of Postgres could break, on each that a server can be had of
	@for major in $(filter-out $(DEBIAN),$(TESTED)); do PG_MAJOR=$$major SMOKE=1 scripts/test.sh || exit 1; done

check-majors: ## clippy without warnings for each version of Postgres that we support and no server can be had of here
	@for major in $(CHECKED); do scripts/check.sh $$major || exit 1; done

test-install: ## `make install` on each major version (MAJORS="15 18") and the package on Debian's: exports, a new version under a session
	@for major in $(or $(MAJORS),$(TESTED)); do PG_MAJOR=$$major scripts/test-install.sh || exit 1; done

soak: ## two thousand exports in one backend, with faults; prints what grew
	@SOAK=1 scripts/test.sh

lint: ## formatting, clippy, shellcheck, licences and duplicates of dependencies, unsafe code, sentences and links of the documentation
	@scripts/lint.sh

docs: ## the site of the documentation into target/docs, and a check of its links and its search
	@scripts/docs.sh

audit: ## known vulnerabilities of dependencies; fetches the list from GitHub
	@. scripts/common.sh && need_cargo_deny && cargo deny check advisories

bench: ## side by side with what one would use otherwise, about half an hour (ROUNDS=5; ROWS='narrow|50 ms' for a part)
	@scripts/bench.sh $(or $(ROUNDS),5) $(if $(ROWS),'$(ROWS)')

bench-encoders: ## each encoder by itself, by Criterion
	@cargo bench -p encoders --target-dir target/bench-encoders

bench-instructions: ## machine instructions of a row or of a file, by valgrind (FORM=wrapped, plain, rows or files)
	@scripts/instructions.sh $(FORM)

all: ## build for the Postgres of PG_CONFIG, so that root can install it without Rust
	@PG_CONFIG="$(PG_CONFIG)" scripts/install.sh build

install: ## into the Postgres of PG_CONFIG=/path/to/pg_config (default: the first in PATH), or below the folder DESTDIR
	@PG_CONFIG="$(PG_CONFIG)" DESTDIR="$(DESTDIR)" scripts/install.sh

clean: ## delete what all, install and package have built
	@rm -rf target/install target/package target/packaged target/release

package: ## .deb, RPM, tarball and the tree of an extension image, with checksums and SBOM, into target/package (PG_CONFIG=…)
	@PG_CONFIG="$(PG_CONFIG)" scripts/package.sh

source-package: ## the archives of the last commit's source, for PGXN and for Debian, into target/package
	@scripts/source-package.sh

test-source: ## builds from these archives: `make && make install` from PGXN's, dpkg-buildpackage offline from Debian's
	@scripts/test-source.sh

clean-servers: ## stop the servers of demo, test and bench and delete their data
	@for major in $(TESTED); do PG_MAJOR=$$major bash -c '. scripts/common.sh; for kind in test demo bench; do \
		use_kind $$kind; [ ! -d "$$PG_COPY" ] || scripts/servers.sh clean "$$RUN_DIR"; done'; done
