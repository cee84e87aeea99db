soft_int_test.o: tests/unit/soft_int_test.c core/cpu/decode.h \
  core/base/types.h core/cpu/insn_id.h core/cpu/insn_id.def \
  tests/unit/lib_native.h tests/unit/soft_machine.h core/cpu/cpuid.h \
  core/base/err.h core/cpu/msr.h core/cpu/state.h core/if/callout.h \
  core/if/engine.h core/if/host.h core/mem/ram.h engines/soft/engine.h \
  core/if/mutex.h engines/soft/soft.h hosts/fake/fake.h \
  core/if/backend.h

core/cpu/decode.h:

core/base/types.h:

core/cpu/insn_id.h:

core/cpu/insn_id.def:

tests/unit/lib_native.h:

tests/unit/soft_machine.h:

core/cpu/cpuid.h:

core/base/err.h:

core/cpu/msr.h:

core/cpu/state.h:

core/if/callout.h:

core/if/engine.h:

core/if/host.h:

core/mem/ram.h:

engines/soft/engine.h:

core/if/mutex.h:

engines/soft/soft.h:

hosts/fake/fake.h:

core/if/backend.h:
