tr_scan.o: engines/soft/tr_scan.c engines/soft/smc.h \
  engines/soft/engine.h core/cpu/decode.h core/base/types.h \
  core/cpu/insn_id.h core/cpu/insn_id.def core/if/mutex.h core/if/host.h \
  engines/soft/soft.h core/cpu/state.h core/if/engine.h core/base/err.h \
  core/mem/ram.h engines/soft/tr.h engines/soft/block.h \
  engines/soft/look.h engines/soft/tlb.h

engines/soft/smc.h:

engines/soft/engine.h:

core/cpu/decode.h:

core/base/types.h:

core/cpu/insn_id.h:

core/cpu/insn_id.def:

core/if/mutex.h:

core/if/host.h:

engines/soft/soft.h:

core/cpu/state.h:

core/if/engine.h:

core/base/err.h:

core/mem/ram.h:

engines/soft/tr.h:

engines/soft/block.h:

engines/soft/look.h:

engines/soft/tlb.h:
