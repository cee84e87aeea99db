verify_report.o: engines/soft/verify_report.c core/base/fmt.h \
  core/base/types.h core/mem/ram.h engines/soft/engine.h \
  core/cpu/decode.h core/cpu/insn_id.h core/cpu/insn_id.def \
  core/if/mutex.h core/if/host.h engines/soft/soft.h core/cpu/state.h \
  core/if/engine.h core/base/err.h engines/soft/tlb.h engines/soft/vec.h \
  engines/soft/mem.h engines/soft/verify.h

core/base/fmt.h:

core/base/types.h:

core/mem/ram.h:

engines/soft/engine.h:

core/cpu/decode.h:

core/cpu/insn_id.h:

core/cpu/insn_id.def:

core/if/mutex.h:

core/if/host.h:

engines/soft/soft.h:

core/cpu/state.h:

core/if/engine.h:

core/base/err.h:

engines/soft/tlb.h:

engines/soft/vec.h:

engines/soft/mem.h:

engines/soft/verify.h:
