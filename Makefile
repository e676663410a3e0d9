# moongate. The two commands that matter: `make run` and `make test`. `make help` lists the rest.

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:

# One build tree per variant: asan, gcstress and faults get their own below $(B).
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
else
$(error VARIANT is release, asan or gcstress, not $(VARIANT))
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
PIE_LD     = $(OPT) -pie -Wl,-z,relro,-z,now $(LDFLAGS)

# The rooms, lowest layer first (see the README's architecture section; `make layers` checks it).
ROOMS   := base snapshot ipc tls net openssl proxy script supervisor worker cli
SHARED  := base tls openssl
SRC     := $(foreach r,$(ROOMS),$(sort $(wildcard src/$(r)/*.c)))
LUASRC  := $(sort $(wildcard lua/moongate/*.lua))
OBJ     := $(SRC:src/%.c=$(OUT)/obj/%.o) $(OUT)/obj/embedded.o
SO_OBJ  := $(filter $(foreach r,$(SHARED),$(OUT)/obj/$(r)/%),$(OBJ))
TEST_ROOMS := base snapshot ipc tls net proxy
TEST_OBJ := $(patsubst src/%.c,$(OUT)/spec/obj/%.o,$(foreach r,$(TEST_ROOMS),$(sort $(wildcard src/$(r)/*.c)))) \
            $(patsubst spec/c/%.c,$(OUT)/spec/obj/c/%.o,$(sort $(wildcard spec/c/*.c)))
PEERS   := $(patsubst spec/system/support/%.c,$(OUT)/spec/%,$(wildcard spec/system/support/*.c))

.PHONY: all
all: build ## build everything (no packages are installed)
build: $(OUT)/moongate $(OUT)/lua/moongate/openssl.so
.PHONY: build

$(OUT)/moongate: $(OBJ)
	$(CC) $(PIE_LD) -o $@ $^ $(PKG_LIBS) -lpthread

$(OUT)/lua/moongate/openssl.so: $(SO_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OPT) -shared -Wl,-z,relro,-z,now $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs openssl) -lpthread

$(OUT)/obj/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(if $(filter $(SHARED),$(word 1,$(subst /, ,$*))),-fPIC,-fPIE) -MMD -MP -c -o $@ $<

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
	$(CC) $(ALL_CFLAGS) -fPIE -MMD -MP -c -o $@ $<

# ---- what only specs use -------------------------------------------------------------------------
.PHONY: spec-build
spec-build: build $(OUT)/spec/mgtest.so $(PEERS)
$(OUT)/spec/obj/c/%.o: spec/c/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DMG_FAULTS -fPIC -MMD -MP -c -o $@ $<
$(OUT)/spec/obj/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DMG_FAULTS -fPIC -MMD -MP -c -o $@ $<
$(OUT)/spec/mgtest.so: $(TEST_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OPT) -shared $(LDFLAGS) -o $@ $^ $(shell pkg-config --libs openssl libuv) -lpthread
$(OUT)/spec/%: spec/system/support/%.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -fPIE $(PIE_LD) -MMD -MP -o $@ $< $(shell pkg-config --libs openssl) -lpthread

-include $(OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(PEERS:=.d)

# ---- one room at a time, for work on it ----------------------------------------------------------
.PHONY: room
room: $(patsubst src/%.c,$(OUT)/obj/%.o,$(sort $(wildcard src/$(ROOM)/*.c))) ## compile one room: make room ROOM=net
