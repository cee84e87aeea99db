# SPDX-License-Identifier: Apache-2.0
#
#   make            build/sosia
#   make run        set up, build, boot a Linux guest to a shell
#   make test       set up, run every test
#   make stress     programs that are hard on a monitor, for long
#   make bench-density  memory and processor time of many idle machines
#   make bench      measure against QEMU and native
#   make tidy       clang-tidy
#   make fuzz       each fuzz harness with libFuzzer for FUZZ_SECONDS
#   make check      the checks that need no guest: layers, sizes, symbols
#
# MODE=rel|dbg|asan|tsan|fuzz (asan includes UBSan), CC=gcc|clang. Each combination has its own folder under
# build/. A new source file in a known folder needs no edit here.

, := ,
MODE ?= rel
CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
BUILD := build/$(CC)-$(MODE)

WARN := -Wall -Wextra -Werror -Wconversion -Wno-sign-conversion -Wshadow -Wmissing-prototypes \
        -Wstrict-prototypes -Wvla -Wundef -Wpointer-arith -Wwrite-strings -Wno-missing-field-initializers
# Left alone gcc clears structs of a hundred bytes by REP STOS, which takes 30 cycles to begin.
CLEAR := $(if $(findstring clang,$(CC)),,-mmemset-strategy=unrolled_loop:512:noalign$(,)rep_8byte:8192:noalign$(,)libcall:-1:noalign)
OPT_rel := -O2 -g $(CLEAR)
OPT_dbg := -O0 -g
OPT_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
# gcc warns that TSan does not understand stand-alone fences (engines/soft/smc.c); what that could
# report wrongly is listed in tests/tsan.supp
OPT_tsan := -O1 -g -fsanitize=thread $(if $(findstring clang,$(CC)),,-Wno-tsan)
# for make fuzz, clang only
OPT_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined \
            -fno-omit-frame-pointer
OPT := $(OPT_$(MODE))

CFLAGS_ALL = -std=c11 $(OPT) $(WARN) -I. -MMD -MP -fno-strict-aliasing -fwrapv $(CFLAGS)
# core and the engines that may run without an operating system
FREESTANDING := -ffreestanding -fno-stack-protector -fno-common
HOSTED := -D_GNU_SOURCE

CORE_SRC := $(wildcard core/*/*.c)
SOFT_SRC := $(wildcard engines/soft/*.c)
SOFT_ASM := $(wildcard engines/soft/*.S)
KVM_SRC := $(wildcard engines/kvm/*.c)
IMAGE_SRC := $(wildcard image/*.c)
LINUX_SRC := $(wildcard hosts/linux/*.c)
FAKE_SRC := $(wildcard hosts/fake/*.c)
CMD_SRC := $(wildcard cmd/*.c)

objs = $(patsubst %.c,$(BUILD)/%.o,$(filter %.c,$(1))) $(patsubst %.S,$(BUILD)/%.o,$(filter %.S,$(1)))

LIBCORE := $(BUILD)/libcore.a
LIBSOFT := $(BUILD)/libsoft.a
LIBKVM := $(BUILD)/libkvm.a
LIBIMAGE := $(BUILD)/libimage.a
LIBLINUX := $(BUILD)/liblinux.a
LIBFAKE := $(BUILD)/libfake.a
LIBCMD := $(BUILD)/libcmd.a
ENGINE_LIBS := $(LIBSOFT) $(LIBKVM)
# Small libraries go into the program: each shared one costs a machine's start a tenth of a millisecond
# and each machine its own pages. libmicrohttpd and libslirp are loaded by those that need them.
LDLIBS := -Wl,-z,now -Wl,-Bstatic -ljansson -luring -lz -lzstd -Wl,-Bdynamic -lpthread

.PHONY: all
all: build/sosia

# made again also when it points to another, newer build
ifneq ($(shell readlink build/sosia),$(CC)-$(MODE)/sosia)
.PHONY: build/sosia
endif
build/sosia: $(BUILD)/sosia
	@mkdir -p build && ln -sf $(CC)-$(MODE)/sosia $@

$(BUILD)/sosia: $(LIBCMD) $(LIBLINUX) $(LIBIMAGE) $(LIBSOFT) $(LIBKVM) $(LIBCORE)
	$(CC) $(OPT) -o $@ -Wl,--start-group $^ -Wl,--end-group $(LDLIBS)

$(LIBCORE): $(call objs,$(CORE_SRC))
$(LIBSOFT): $(call objs,$(SOFT_SRC) $(SOFT_ASM))
$(LIBKVM): $(call objs,$(KVM_SRC))
$(LIBIMAGE): $(call objs,$(IMAGE_SRC))
$(LIBLINUX): $(call objs,$(LINUX_SRC)) $(BUILD)/gen/fence_bpf.o
$(LIBFAKE): $(call objs,$(FAKE_SRC))
$(LIBCMD): $(call objs,$(CMD_SRC))

$(BUILD)/%.a:
	@mkdir -p $(@D)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/core/%.o: core/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(FREESTANDING) -c -o $@ $<

$(BUILD)/image/%.o: image/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(FREESTANDING) -c -o $@ $<

# The red zone is off because flag-capturing assembly pushes; x87 and SSE are left to the stubs.
$(BUILD)/engines/soft/%.o: engines/soft/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(FREESTANDING) -mno-red-zone -foptimize-sibling-calls -c -o $@ $<

$(BUILD)/engines/soft/%.o: engines/soft/%.S
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(HOSTED) -c -o $@ $<

# The seccomp filters are made when Sosia is built, by a program of its own.
FENCE_GEN := $(BUILD)/gen/fence_gen
$(FENCE_GEN): hosts/linux/gen/fence_gen.c hosts/linux/fence_bpf.h
	@mkdir -p $(@D)
	$(CC) -std=c11 -O1 $(WARN) -I. $(HOSTED) -o $@ $< -lseccomp
$(BUILD)/gen/fence_bpf.c: $(FENCE_GEN)
	$< >$@.new
	mv $@.new $@
$(BUILD)/gen/fence_bpf.o: $(BUILD)/gen/fence_bpf.c
	$(CC) $(CFLAGS_ALL) $(HOSTED) -c -o $@ $<

# --- unit tests: tests/unit/NAME_test.c, one program each --------------------------------------------

# UNITS="loop vm" builds and runs those only
UNIT_SRC := $(if $(UNITS),$(patsubst %,tests/unit/%_test.c,$(UNITS)),$(wildcard tests/unit/*_test.c))
UNIT_BIN := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(UNIT_SRC))
UNIT_LIB := $(call objs,$(wildcard tests/unit/lib_*.c))

$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(UNIT_LIB) $(LIBFAKE) $(LIBCMD) $(LIBLINUX) $(LIBIMAGE) $(LIBSOFT) $(LIBKVM) $(LIBCORE)
	$(CC) $(OPT) -o $@ $< $(UNIT_LIB) -Wl,--start-group $(LIBCMD) $(LIBFAKE) $(LIBLINUX) $(LIBIMAGE) $(LIBSOFT) $(LIBKVM) $(LIBCORE) -Wl,--end-group \
		-lcmocka -lZydis $(LDLIBS)

# Lock-step has one vCPU, so ThreadSanitizer has nothing to find there; its runtime crashes in it
# (AcquireReleaseImpl on its own thread state, not explained).
.PHONY: unit unit-bin
unit-bin: $(UNIT_BIN)
unit: $(UNIT_BIN)
	@TSAN_OPTIONS="suppressions=tests/tsan.supp $$TSAN_OPTIONS" scripts/run_unit.sh $(UNIT_BIN) \
		$(patsubst %,translator:%,$(filter $(BUILD)/tests/unit/soft_%,$(UNIT_BIN))) \
		$(if $(filter tsan,$(MODE)),,$(patsubst %,verify:%,$(filter $(BUILD)/tests/unit/soft_%,$(UNIT_BIN))))

# --- storage: images against qemu-img, and machines that are killed (docs/storage.md) ------------------

POKE := $(BUILD)/tests/storage/poke
$(POKE): $(POKE).o $(LIBLINUX) $(LIBIMAGE) $(LIBCORE)
	$(CC) $(OPT) -o $@ $< -Wl,--start-group $(LIBLINUX) $(LIBIMAGE) $(LIBCORE) -Wl,--end-group $(LDLIBS)

# the bounded form, for make test
.PHONY: storage-test crash-test
storage-test: all $(POKE)
	@tests/storage/guest.sh
	@POKE=$(POKE) tests/storage/run.sh

# the long form: CRASH_BOOTS machines killed, about 12 s each, and 10 moments of each looked at
CRASH_BOOTS ?= 300
crash-test: setup-test
	@$(MAKE) -s all
	@tests/storage/guest.sh
	@tests/storage/crash.py --boots $(CRASH_BOOTS) --stops 10

# --- freestanding test guests: tests/guest/NAME.c, one Multiboot image each ------------------------------

GUEST_TESTS := $(patsubst tests/guest/%.c,build/guest-tests/%.elf,$(wildcard tests/guest/*.c)) \
	$(patsubst tests/guest/m32/%.c,build/guest-tests/%.elf,$(wildcard tests/guest/m32/*.c))
GUEST_CFLAGS := -std=gnu11 -O1 -ffreestanding -fno-stack-protector -fno-pic -mno-red-zone -mgeneral-regs-only \
	-mcmodel=large -fcf-protection=none -Wall -Wextra -Werror -Itests/guest

.PHONY: guest-tests
guest-tests: $(GUEST_TESTS)

GUEST_LD := -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
	-T tests/guest/lib/guest.ld
GUEST_LIB := $(wildcard tests/guest/lib/*.[cS])
GUEST_LIB32 := $(wildcard tests/guest/m32/lib/*.[cS])

build/guest-tests/%.elf: tests/guest/%.c $(GUEST_LIB) $(wildcard tests/guest/lib/*.h) tests/guest/lib/guest.ld
	@mkdir -p $(@D)
	gcc -g $(GUEST_CFLAGS) $(GUEST_LD) -o $@.64 $< $(GUEST_LIB)
	objcopy -g -O elf32-i386 $@.64 $@

# 32-bit guests stay in the mode that Multiboot enters
build/guest-tests/%.elf: tests/guest/m32/%.c $(GUEST_LIB32) $(wildcard tests/guest/m32/lib/*.h) tests/guest/lib/guest.ld
	@mkdir -p $(@D)
	gcc -m32 -march=i686 $(filter-out -mcmodel=large -mno-red-zone,$(GUEST_CFLAGS)) $(GUEST_LD) -Wl,-m,elf_i386 \
		-o $@ $< $(GUEST_LIB32)

# --- fuzz harnesses: tests/fuzz/NAME_fuzz.c; the corpus in tests/fuzz/corpus/NAME runs as a test ------

FUZZ_SRC := $(wildcard tests/fuzz/*_fuzz.c)
# lib_chips: the machine without processors; lib_mock: an engine without a guest; lib_memfile: disks
FUZZ_LIB := $(BUILD)/tests/unit/lib_chips.o $(BUILD)/tests/unit/lib_mock.o $(BUILD)/tests/unit/lib_memfile.o
FUZZ_REPLAY := $(patsubst tests/fuzz/%_fuzz.c,$(BUILD)/tests/fuzz/%_replay,$(FUZZ_SRC))

$(BUILD)/tests/fuzz/%_replay: $(BUILD)/tests/fuzz/%_fuzz.o $(BUILD)/tests/fuzz/replay_main.o $(FUZZ_LIB) $(LIBCMD) $(LIBFAKE) $(LIBLINUX) $(LIBIMAGE) $(LIBSOFT) $(LIBKVM) $(LIBCORE)
	$(CC) $(OPT) -o $@ $< $(BUILD)/tests/fuzz/replay_main.o $(FUZZ_LIB) \
		-Wl,--start-group $(LIBCMD) $(LIBFAKE) $(LIBLINUX) $(LIBIMAGE) $(LIBSOFT) $(LIBKVM) $(LIBCORE) -Wl,--end-group $(LDLIBS)

.PHONY: fuzz-replay fuzz-bin
fuzz-bin: $(FUZZ_REPLAY)
fuzz-replay: $(FUZZ_REPLAY)
	@scripts/run_fuzz_corpus.sh $(FUZZ_REPLAY)

# make fuzz: the same harnesses with libFuzzer, each for FUZZ_SECONDS; what it finds goes to
# build/fuzz/NAME. NAME="vq uart" takes those only, SECONDS= is short for FUZZ_SECONDS=.
FUZZ_SECONDS ?= 30
FUZZ_NAMES := $(or $(NAME),$(patsubst tests/fuzz/%_fuzz.c,%,$(FUZZ_SRC)))
FUZZ_BIN := $(patsubst %,$(BUILD)/tests/fuzz/%_fuzzer,$(FUZZ_NAMES))

$(BUILD)/tests/fuzz/%_fuzzer: $(BUILD)/tests/fuzz/%_fuzz.o $(FUZZ_LIB) $(LIBCMD) $(LIBFAKE) $(LIBLINUX) $(LIBIMAGE) $(LIBSOFT) $(LIBKVM) $(LIBCORE)
	$(CC) $(OPT) -fsanitize=fuzzer -o $@ $< $(FUZZ_LIB) \
		-Wl,--start-group $(LIBCMD) $(LIBFAKE) $(LIBLINUX) $(LIBIMAGE) $(LIBSOFT) $(LIBKVM) $(LIBCORE) -Wl,--end-group $(LDLIBS)

.PHONY: fuzz fuzz-run
fuzz:
	@$(MAKE) -s CC=clang MODE=fuzz fuzz-run
fuzz-run: $(FUZZ_BIN)
	@scripts/run_fuzz.sh $(or $(SECONDS),$(FUZZ_SECONDS)) $(FUZZ_BIN)

# --- the decoder against Zydis (docs/decoder.md) ------------------------------------------------------

DECODE_ZYDIS := $(BUILD)/tests/conformance/decode_zydis
DECODE_COUNT ?= 3000000

$(DECODE_ZYDIS): $(DECODE_ZYDIS).o $(BUILD)/tests/conformance/decode_compare.o $(LIBCORE)
	$(CC) $(OPT) -o $@ $^ -lZydis

.PHONY: decode-zydis
decode-zydis: $(DECODE_ZYDIS)
	@$< --count $(DECODE_COUNT) --seed 1

# --- random instructions against the processor (docs/fidelity.md) ---------------------------------------

CONFORM := $(BUILD)/tests/conformance/conform
CONFORM_OBJ := $(call objs,$(wildcard tests/conformance/conform*.c))
CONFORM_SECONDS ?= 45

$(CONFORM): $(CONFORM_OBJ) $(LIBFAKE) $(LIBLINUX) $(LIBSOFT) $(LIBCORE)
	$(CC) $(OPT) -o $@ $(CONFORM_OBJ) -Wl,--start-group $(LIBFAKE) $(LIBLINUX) $(LIBSOFT) $(LIBCORE) -Wl,--end-group $(LDLIBS)

.PHONY: conform
conform: $(CONFORM)
	@$< --corpus tests/conformance/conform.txt --seconds $(CONFORM_SECONDS) || [ $$? -eq 77 ]

# --- checks -----------------------------------------------------------------------------------------

.PHONY: check
check: $(LIBCORE) $(LIBSOFT) $(LIBIMAGE)
	@scripts/layer_check.py
	@scripts/size_check.py
	@scripts/symbol_check.sh $(LIBCORE) $(LIBSOFT) $(LIBIMAGE)

# clang-tidy with the checks of .clang-tidy, one file each so that they run side by side. The soft
# engine's instruction tables take it minutes; what they need most, size_check.py says too.
TIDY_SRC ?= $(CORE_SRC) $(IMAGE_SRC) $(LINUX_SRC) $(FAKE_SRC) $(CMD_SRC)
TIDY_OK := $(patsubst %.c,build/tidy/%.ok,$(TIDY_SRC))

build/tidy/core/%.ok: TIDY_MODE := -ffreestanding
build/tidy/image/%.ok: TIDY_MODE := -ffreestanding
build/tidy/%.ok: %.c .clang-tidy $(wildcard core/*/*.h image/*.h hosts/*/*.h cmd/*.h)
	@mkdir -p $(@D)
	@clang-tidy --quiet $< -- -std=c11 -I. $(or $(TIDY_MODE),-D_GNU_SOURCE) >$@.log 2>/dev/null || { cat $@.log; exit 1; }
	@touch $@

.PHONY: tidy
tidy: $(TIDY_OK)

# --- for people ---------------------------------------------------------------------------------------

GUEST := build/guests/linux-cloud-amd64

# a static pattern: make does not look for implicit rules of phony targets
SETUPS := setup-build setup-run setup-test setup-image setup-bench
.PHONY: $(SETUPS)
$(SETUPS): setup-%:
	@scripts/setup.sh $*

.PHONY: run
run: setup-run
	@$(MAKE) -s -j$$(nproc) all
	@guests/linux/build.sh cloud-amd64
	build/sosia run --cpus 2 --memory 512M --kernel $(GUEST)/vmlinuz --initrd $(GUEST)/initrd.img \
		--cmdline "console=ttyS0 quiet"

.PHONY: debian-image
debian-image: setup-image
	@$(MAKE) -s -j$$(nproc) all
	@guests/debian/build.sh

.PHONY: test
test: setup-test
	@tests/run.sh

.PHONY: bench
bench: setup-bench
	@$(MAKE) -s -j$$(nproc) all
	@bench/run.sh
	@tests/storage/guest.sh
	@bench/disk.py
	@bench/net.py
	@bench/snapshot.py
	@bench/share.py
	@bench/login.py

# How many machines fit: memory and processor time of idle and lightly loaded ones.
.PHONY: bench-density
bench-density: setup-bench
	@$(MAKE) -s -j$$(nproc) all
	@guests/linux/build.sh cloud-amd64
	@bench/density.py $(DENSITY)

# The long form of the stage of that name: every program for 15 seconds, more of stress-ng's classes,
# with 1, 2 and 4 processors; about 45 minutes.
.PHONY: stress
stress: setup-test
	@$(MAKE) -s -j$$(nproc) all
	@tests/stress/build.sh
	@tests/stress/run.py --long --translator on

.PHONY: format
format:
	clang-format -i $$(git ls-files '*.c' '*.h')

.PHONY: clean
clean:
	rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
