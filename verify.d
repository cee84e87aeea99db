verify.o: engines/soft/verify.c engines/soft/verify.h engines/soft/mem.h \
  engines/soft/soft.h core/cpu/decode.h core/base/types.h \
  core/cpu/insn_id.h core/cpu/insn_id.def core/cpu/state.h \
  core/if/engine.h core/base/err.h core/if/host.h core/mem/ram.h \
  engines/soft/tlb.h core/base/fmt.h engines/soft/block.h \
  engines/soft/engine.h core/if/mutex.h engines/soft/look.h \
  engines/soft/tr.h engines/soft/vec.h

engines/soft/verify.h:

engines/soft/mem.h:

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

engines/soft/tlb.h:

core/base/fmt.h:

engines/soft/block.h:

engines/soft/engine.h:

core/if/mutex.h:

engines/soft/look.h:

engines/soft/tr.h:

engines/soft/vec.h:
