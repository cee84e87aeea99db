tr_cache.o: engines/soft/tr_cache.c core/if/trace.h core/base/err.h \
  core/base/types.h core/if/log.h core/if/host.h engines/soft/tr.h \
  engines/soft/block.h engines/soft/soft.h core/cpu/decode.h \
  core/cpu/insn_id.h core/cpu/insn_id.def core/cpu/state.h \
  core/if/engine.h core/mem/ram.h engines/soft/engine.h core/if/mutex.h \
  engines/soft/look.h engines/soft/tlb.h

core/if/trace.h:

core/base/err.h:

core/base/types.h:

core/if/log.h:

core/if/host.h:

engines/soft/tr.h:

engines/soft/block.h:

engines/soft/soft.h:

core/cpu/decode.h:

core/cpu/insn_id.h:

core/cpu/insn_id.def:

core/cpu/state.h:

core/if/engine.h:

core/mem/ram.h:

engines/soft/engine.h:

core/if/mutex.h:

engines/soft/look.h:

engines/soft/tlb.h:
