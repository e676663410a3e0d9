# moongate. The two commands that matter: `make run` and `make test`. `make help` lists the rest.

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:

# One build tree per variant: all but release get their own below $(B).
B       ?= build
VARIANT ?= release
CC      = cc
LUA     ?= lua5.4

ifeq ($(VARIANT),release)
OUT := $(B)
OPT := -O2 -g -D_FORTIFY_SOURCE=2
else ifeq ($(VARIANT),asan)
OUT := $(B)/asan
OPT := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -DMG_SANITIZED
else ifeq ($(VARIANT),gcstress)
OUT := $(B)/gcstress
OPT := -O1 -g -D_FORTIFY_SOURCE=2 -DMG_GC_STRESS
else ifeq ($(VARIANT),threads)
OUT := $(B)/threads
OPT := -O2 -g -D_FORTIFY_SOURCE=2 -DMG_OFFLOAD_BEGIN=0
else
$(error VARIANT is release, asan, gcstress or threads, not $(VARIANT))
endif

PKGS     := openssl libuv lua5.4
WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual -Wformat=2 -Wvla
HARDEN   := -fstack-protector-strong
CFLAGS   ?=
CPPFLAGS ?=
LDFLAGS  ?=
PKG_CFLAGS = $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null)
ALL_CFLAGS = -std=gnu11 $(OPT) $(WARN) $(HARDEN) -fvisibility=hidden -iquote src $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS)
# STATIC=1: OpenSSL inside of the binary; its updates then need a new build.
STATIC  ?=
OUR_LIBS = $(if $(STATIC),-l:libssl.a -l:libcrypto.a $(filter-out -lssl -lcrypto,$(PKG_LIBS)) -ldl,$(PKG_LIBS))
PIE_LD     = $(OPT) -pie -Wl,-z,relro,-z,now $(LDFLAGS)

# The rooms, lowest layer first (see the README's architecture section; `make layers` checks it).
ROOMS   := base snapshot ipc tls net openssl proxy script supervisor worker cli
SHARED  := base tls openssl
GUEST   := snapshot net proxy script
SRC     := $(foreach r,$(ROOMS),$(sort $(wildcard src/$(r)/*.c)))
LUASRC  := $(sort $(wildcard lua/moongate/*.lua))
OBJ     := $(SRC:src/%.c=$(OUT)/obj/%.o) $(OUT)/obj/embedded.o
SO_OBJ  := $(filter $(foreach r,$(SHARED),$(OUT)/obj/$(r)/%),$(OBJ))
GUEST_OBJ := $(filter $(foreach r,$(GUEST),$(OUT)/obj/$(r)/%),$(OBJ)) $(OUT)/obj/embedded.o
TEST_ROOMS := base snapshot ipc tls net proxy
TEST_OBJ := $(patsubst src/%.c,$(OUT)/spec/obj/%.o,$(foreach r,$(TEST_ROOMS),$(sort $(wildcard src/$(r)/*.c)))) \
            $(patsubst spec/c/%.c,$(OUT)/spec/obj/c/%.o,$(sort $(wildcard spec/c/*.c)))
FAULT_OBJ := $(patsubst src/%.c,$(OUT)/spec/obj/%.o,$(foreach r,$(SHARED),$(sort $(wildcard src/$(r)/*.c))))
BENCH   := $(patsubst spec/bench/%.c,$(OUT)/bench/%,$(wildcard spec/bench/*.c))
PEERS   := $(patsubst spec/system/support/%.c,$(OUT)/spec/%,$(wildcard spec/system/support/*.c))

.DEFAULT_GOAL := all
.PHONY: all
all: build ## build everything (no packages are installed)
build: $(OUT)/moongate $(OUT)/lua/moongate/openssl.so $(OUT)/lua/moongate/script.so ## the program and the Lua modules (VARIANT=asan: theirs)
.PHONY: build

$(OUT)/moongate: $(OBJ)
	$(CC) $(PIE_LD) -o $@ $^ $(OUR_LIBS) -lm -lpthread

# nodelete: OpenSSL keeps pointers to our ex_data callbacks, which must outlive lua_close.
$(OUT)/lua/moongate/openssl.so: $(SO_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OPT) -shared -Wl,-z,relro,-z,now,-z,nodelete $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs openssl) -lpthread

# What moongate.testing loads scripts with in stock lua5.4. It stands on openssl.so, so that a process
# has one copy of the bindings and both modules know each other's objects.
$(OUT)/lua/moongate/script.so: $(GUEST_OBJ) $(OUT)/lua/moongate/openssl.so
	$(CC) $(OPT) -shared -Wl,-z,relro,-z,now,-z,nodelete,-rpath,'$$ORIGIN' $(LDFLAGS) -o $@ $(GUEST_OBJ) \
	  -L$(@D) -l:openssl.so $(shell pkg-config --libs openssl libuv) -lpthread

# Binary and modules are made of the same objects; openssl.so shows its symbols to script.so.
$(OUT)/obj/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIC $(if $(filter $(SHARED),$(word 1,$(subst /, ,$*))),-fvisibility=protected) -MMD -MP -c -o $@ $<

# The Lua of lua/ becomes part of the binary: name, text, length; ended by a NULL name.
$(OUT)/obj/embedded.c: $(LUASRC) Makefile
	@mkdir -p $(@D)
	@{ echo '#include "script/embedded.h"'; n=0; \
	for f in $(LUASRC); do echo "static const unsigned char text_$$n[] = {"; \
	  od -An -v -tu1 $$f | sed 's/[0-9][0-9]*/&,/g'; echo '0};'; n=$$((n+1)); done; \
	echo 'const struct mg_embedded mg_embedded[] = {'; n=0; \
	for f in $(LUASRC); do m=$${f#lua/}; m=$${m%.lua}; m=$$(echo $$m | tr / . | sed 's/\.init$$//'); \
	  echo "{\"$$m\", text_$$n, sizeof(text_$$n) - 1},"; n=$$((n+1)); done; echo '{0, 0, 0}};'; } > $@
$(OUT)/obj/embedded.o: $(OUT)/obj/embedded.c
	$(CC) $(ALL_CFLAGS) -fPIC -MMD -MP -c -o $@ $<

# ---- what only specs use -------------------------------------------------------------------------
.PHONY: spec-build
spec-build: build $(BENCH) $(OUT)/spec/mgtest.so $(PEERS) $(OUT)/spec/process.so $(OUT)/spec/lua/moongate/openssl.so ## build, and what only specs use
$(OUT)/spec/obj/c/%.o: spec/c/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DMG_FAULTS -fPIC -MMD -MP -c -o $@ $<
$(OUT)/spec/obj/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DMG_FAULTS -fPIC -MMD -MP -c -o $@ $<
$(OUT)/spec/mgtest.so: $(TEST_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OPT) -shared $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs openssl libuv) -lpthread
# moongate.openssl whose allocations can be made to fail.
$(OUT)/spec/lua/moongate/openssl.so: $(FAULT_OBJ) spec/support/faults.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DMG_FAULTS -fPIC -shared -Wl,-z,nodelete $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs openssl) -lpthread
# Lives in a stock lua5.4, which has no sanitizer, so it is built the same for every variant.
$(OUT)/spec/process.so: spec/support/process.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -O2 -g $(WARN) -fPIC $(shell pkg-config --cflags lua5.4) -shared -o $@ $<
$(OUT)/spec/%: spec/system/support/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIE $(PIE_LD) -MMD -MP -o $@ $< $(shell pkg-config --libs openssl) -lpthread

-include $(OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(FAULT_OBJ:.o=.d) $(PEERS:=.d) $(BENCH:=.d)

# ---- one room at a time, for work on it ----------------------------------------------------------
.PHONY: room
room: $(patsubst src/%.c,$(OUT)/obj/%.o,$(sort $(wildcard src/$(ROOM)/*.c))) ## compile one room: make room ROOM=net

# ---- the two commands ----------------------------------------------------------------------------
.PHONY: run test check
run: ## install what is missing, build, and start examples/quickstart.lua on 127.0.0.1:8443
	@.ci/packages build run
	@$(MAKE) --no-print-directory -s build
	@examples/quickstart.sh $(OUT)

test: ## install what is missing, build, and run every spec
	@.ci/packages build test
	@$(MAKE) --no-print-directory check

check: spec-build ## build and run the specs (SPEC=path: some of them); installs nothing
	@MOONGATE_BUILD=$(OUT) spec/run $(SPEC)

# ---- the same specs, harder ----------------------------------------------------------------------
.PHONY: asan gcstress threads
asan: ## the specs under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory check VARIANT=asan

gcstress: ## the specs with Lua's collector at pause 0
	@$(MAKE) --no-print-directory check VARIANT=gcstress

THREADS_SPEC = spec/c/engine_offload spec/c/engine_close spec/system/flood spec/system/sessions spec/system/resumption \
               spec/system/tls_function spec/system/servername spec/system/callbacks spec/system/clients \
               spec/system/proxy_
threads: ## the specs of handshakes (SPEC=path: others) with each of them that may in the helper thread
	@$(MAKE) --no-print-directory check VARIANT=threads SPEC="$(or $(SPEC),$(THREADS_SPEC))"

.PHONY: faults
faults: ## each allocation of the bindings fails once, for every n (the ordinary run takes a sample of the long ones)
	@FAULTS=all $(MAKE) --no-print-directory check SPEC=spec/unit/openssl/faults_spec.lua

.PHONY: check-trixie
check-trixie: ## the specs on Debian 13 with OpenSSL 3.5, in a chroot (root; installs packages in there)
	@.ci/trixie $(B)/trixie VARIANT=$(VARIANT) $(if $(SPEC),SPEC="$(SPEC)")

# ---- how fast it is ------------------------------------------------------------------------------
.PHONY: bench
BENCH_ENV = MOONGATE_BUILD=$(OUT) LUA_PATH="lua/?.lua;spec/support/?.lua;;" LUA_CPATH="$(OUT)/lua/?.so;$(OUT)/spec/?.so;;"
bench: ## measure moongate beside hitch, HAProxy, nginx and stunnel (QUICK=1: two minutes; ONLY=name: some)
	@.ci/packages build bench
	@$(MAKE) --no-print-directory -s bench-build
	@MOONGATE_BUILD=$(OUT) LUA=$(LUA) spec/bench/run

.PHONY: bench-build
bench-build: build $(BENCH) $(OUT)/spec/process.so ## build, and what only measurements use
$(OUT)/bench/%: spec/bench/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -iquote spec/system/support -fPIE $(PIE_LD) -MMD -MP -o $@ $< $(shell pkg-config --libs openssl) -lpthread

.PHONY: bench-names
bench-names: spec-build ## measure what NAMES (10000) certificates cost a loader, a worker and a reload
	@$(BENCH_ENV) $(LUA) spec/bench/names.lua

.PHONY: fuzz
fuzz: ## feed the parsers of foreign bytes what libFuzzer thinks of, FUZZ_SECONDS (30) each; needs clang
	@spec/fuzz/run $(B)/fuzz

# ---- what reads the code -------------------------------------------------------------------------
.PHONY: lint format layers
C_FILES   := $(sort $(wildcard src/*/*.[ch] spec/bench/*.[ch] spec/c/*.[ch] spec/fuzz/*.c spec/support/*.[ch] spec/system/support/*.[ch]))
LUA_FILES := lua examples spec .ci/reference .ci/annotations.lua .ci/layers
lint: $(OBJ) ## formatting, clang-tidy, luacheck, and clang, also without what only Linux has
	clang-format --style=file:src/.clang-format --dry-run --Werror $(C_FILES)
	@printf '%s\n' $(SRC) | xargs -P 2 -I FILE clang-tidy --quiet --config-file=src/.clang-tidy FILE -- -std=gnu11 -iquote src $(PKG_CFLAGS)
	@for f in $(SRC); do for system in '' -DMG_PORTABLE; do \
	  clang -Werror -fsyntax-only -std=gnu11 -iquote src $(WARN) $(PKG_CFLAGS) $$system $$f || exit 1; done; done
	luacheck -q --config .luacheckrc $(LUA_FILES)

format: ## rewrite the C files in the project's format
	clang-format -i --style=file:src/.clang-format $(C_FILES)

layers: build ## check that every room knows only what lies below it
	@.ci/layers $(OUT)/obj

# ---- what people read ----------------------------------------------------------------------------
.PHONY: reference
reference: $(B)/reference.html $(B)/reference.md ## every name of the API on one page: build/reference.html
	@echo "$<"
$(B)/reference.html: format := html
$(B)/reference.md: format := markdown
$(B)/reference.html $(B)/reference.md: .ci/reference .ci/annotations.lua $(wildcard lua/moongate/meta/*.lua) $(SRC)
	@mkdir -p $(@D)
	.ci/reference $(format) >$@

# ---- the rest ------------------------------------------------------------------------------------
.PHONY: install clean help
PREFIX ?= /usr/local
install: build ## install the binary, the Lua modules and the annotations below PREFIX
	install -D -m 755 $(OUT)/moongate $(DESTDIR)$(PREFIX)/bin/moongate
	install -d $(DESTDIR)$(PREFIX)/lib/lua/5.4/moongate
	install -m 644 $(OUT)/lua/moongate/*.so $(DESTDIR)$(PREFIX)/lib/lua/5.4/moongate
	install -d $(DESTDIR)$(PREFIX)/share/lua/5.4/moongate/meta
	install -m 644 lua/moongate/testing.lua lua/moongate/rules.lua $(DESTDIR)$(PREFIX)/share/lua/5.4/moongate
	install -m 644 lua/moongate/meta/*.lua $(DESTDIR)$(PREFIX)/share/lua/5.4/moongate/meta

clean: ## remove everything that was built
	rm -rf $(B)

help: ## this list
	@echo "make run and make test are all it takes; both install what is missing. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | sort | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "Variables: VARIANT=release|asan|gcstress|threads, SPEC=path, CFLAGS, LDFLAGS, PREFIX, DESTDIR, STATIC=1"
