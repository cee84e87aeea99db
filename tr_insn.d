tr_insn.o: engines/soft/tr_insn.c core/cpu/cpuid.h core/base/err.h \
  core/base/types.h engines/soft/tr.h engines/soft/block.h \
  engines/soft/soft.h core/cpu/decode.h core/cpu/insn_id.h \
  core/cpu/insn_id.def core/cpu/state.h core/if/engine.h core/if/host.h \
  core/mem/ram.h engines/soft/engine.h core/if/mutex.h \
  engines/soft/look.h engines/soft/tlb.h engines/soft/vec.h \
  engines/soft/mem.h

core/cpu/cpuid.h:

core/base/err.h:

core/base/types.h:

engines/soft/tr.h:

engines/soft/block.h:

engines/soft/soft.h:

core/cpu/decode.h:

core/cpu/insn_id.h:

core/cpu/insn_id.def:

core/cpu/state.h:

core/if/engine.h:

core/if/host.h:

core/mem/ram.h:

engines/soft/engine.h:

core/if/mutex.h:

engines/soft/look.h:

engines/soft/tlb.h:

engines/soft/vec.h:

engines/soft/mem.h:
