# Shared by the Makefiles of the parts; "top" is the path to the repository's root.
# PGXS does the work: this adds common/, warnings and TESTING=1.
PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
# Bitcode for the JIT is of no use for these libraries.
override with_llvm = no

PG_CPPFLAGS += -I$(top)/common -Wextra -Wno-unused-parameter \
	-Wno-sign-compare -Wno-missing-field-initializers -Wno-cast-function-type
ifdef TESTING
PG_CPPFLAGS += -DNEON_TESTING
endif
ifdef WERROR
PG_CPPFLAGS += -Werror
endif

# Before the libraries that it needs itself: -lpq, for those who use neon_receive.
ifneq ($(MODULE_big),)
override SHLIB_LINK := $(top)/common/libneoncommon.a $(SHLIB_LINK)
endif

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

ifneq ($(MODULE_big),)
$(shlib): $(top)/common/libneoncommon.a
$(top)/common/libneoncommon.a: $(wildcard $(top)/common/*.c $(top)/common/*.h)
	$(MAKE) -C $(top)/common
endif
$(OBJS): $(wildcard *.h) $(wildcard $(top)/common/*.h)
