# Top of the tree: builds, installs and tests all parts.  CONTRIBUTING.md
# explains each target; the parts' Makefiles use PGXS through neon.mk.
#
#   make demo         quick start in a scratch directory, from nothing
#   make check        everything that is tested within a quarter of an hour
#   make deps         the packages needed (apt)
#   make all install  build; install below pg_config's directories
#   make check-long   larger sizes, more seeds
#   make soak HOURS=n crashes of all kinds under load, all of it at once
#   make check-pgsrc PGSRC=dir    PostgreSQL's own tests on an endpoint (SUITES=, LIMIT=)
#   make bench        a table against stock PostgreSQL; ONLY=part,... of contrib/bench/bench --list
#   TESTING=1         with injection points (never install that)
#   TESTS='t/060*.pl' only these test files

SHELL = /bin/bash
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
export PG_CONFIG
PARTS = common neon_walredo neon_pageserver_bgw neon_compute \
	contrib/neon_ctl contrib/neon_test_utils contrib/powercut contrib/faultrun contrib/testsql neon_pageserver_bgw/test \
	neon_safekeeper_bgw neon_safekeeper_bgw/test
TESTS ?=
JOBS ?= $(shell echo $$(($$(nproc) + 3)))
HOURS ?= 1
SUITES ?= core isolation contrib
LIMIT ?= 64MB
# Objects with and without injection points do not mix.
flavour = $(if $(TESTING),testing,product)

# Said before anything is built.
ifneq ($(and $(TESTING),$(filter install demo check check-long bench soak check-pgsrc,$(MAKECMDGOALS))),)
ifeq ($(DESTDIR),)
$(error a build with TESTING=1 is installed below a DESTDIR only)
endif
endif

default: all

deps:
	@.ci/deps

# Server and headers must be of one minor version: layouts are compiled in.
versions: deps
	@server=$$($$($(PG_CONFIG) --bindir)/postgres -V) && headers=$$($(PG_CONFIG) --version) || exit 1; \
	if [ "$${server#postgres (PostgreSQL) }" != "$${headers#PostgreSQL }" ]; then \
		echo "error: the server is \"$$server\" but the headers are those of \"$$headers\"" >&2; \
		echo "HINT: Run: apt-get update && apt-get install postgresql-15 postgresql-server-dev-15" >&2; \
		exit 1; \
	fi

all: versions
	@mkdir -p .build; if [ "$$(cat .build/flavour 2>/dev/null)" != "$(flavour)" ]; then \
		for p in $(PARTS); do $(MAKE) -s --no-print-directory -C $$p clean || exit 1; done; \
		echo "$(flavour)" > .build/flavour; \
	fi
	@set -e; for p in $(PARTS); do $(MAKE) -s --no-print-directory -C $$p all; done

install: all
	@.ci/install $(PARTS)

# Private copies of the sources, built without a single warning: by clang as
# users get it, by gcc with injection points (which the tests use).  The short run
# leaves out what makes no warning of clang's.
build-clang: versions
	@.ci/build-copy clang WERROR=1 CC=clang COPT="-Wno-ignored-optimization-argument -Wno-unknown-warning-option -Wno-ignored-attributes $(clang_short)" -- $(PARTS)
check: clang_short = -O0 -g0 '-Wno-\#warnings'
build-testing: versions
	@.ci/build-copy testing WERROR=1 TESTING=1 -- $(PARTS)

demo: install
	@contrib/demo/demo

check: install build-clang build-testing
	@.ci/run-tests --jobs $(JOBS) $(TESTS)
check-long: install build-clang build-testing
	@NEON_TEST_LONG=1 .ci/run-tests --jobs $(JOBS) $(TESTS)
soak: install build-testing
	@NEON_TEST_SOAK_HOURS=$(HOURS) .ci/run-tests --jobs 7 t/soak_model.pl t/086_sk_model.pl t/soak.pl t/soak_volume.pl t/073_evict_big.pl t/064_storage_kills.pl t/090_faults_root.pl
check-pgsrc: install
	@test -f "$(PGSRC)/src/test/regress/parallel_schedule" || \
		{ echo "error: PGSRC=\"$(PGSRC)\" is no PostgreSQL source tree" >&2; \
		  echo "HINT: Give the sources of this server's version: make check-pgsrc PGSRC=/path/to/postgresql-15.x" >&2; exit 1; }
	@NEON_TEST_PGSRC="$(abspath $(PGSRC))" NEON_TEST_PGSRC_SUITES="$(SUITES)" NEON_TEST_PGSRC_LIMIT="$(LIMIT)" \
		.ci/run-tests --verbose --jobs 1 t/pgsrc.pl
bench: install
	@contrib/bench/bench $(if $(ONLY),--only $(ONLY))

clean:
	@for p in $(PARTS); do $(MAKE) --no-print-directory -C $$p clean; done
	rm -rf .build

.PHONY: default deps versions all install build-clang build-testing demo check \
	check-long soak check-pgsrc bench clean
