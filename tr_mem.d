tr_mem.o: engines/soft/tr_mem.c engines/soft/tr.h engines/soft/block.h \
  engines/soft/soft.h core/cpu/decode.h core/base/types.h \
  core/cpu/insn_id.h core/cpu/insn_id.def core/cpu/state.h \
  core/if/engine.h core/base/err.h core/if/host.h core/mem/ram.h \
  engines/soft/engine.h core/if/mutex.h engines/soft/look.h \
  engines/soft/tlb.h

engines/soft/tr.h:

engines/soft/block.h:

engines/soft/soft.h:

core/cpu/decode.h:

core/base/types.h:

core/cpu/insn_id.h:

core/cpu/insn_id.def:

core/cpu/state.h:

core/if/engine.h:

core/base/err.h:

core/if/host.h:

core/mem/ram.h:

engines/soft/engine.h:

core/if/mutex.h:

engines/soft/look.h:

engines/soft/tlb.h:
