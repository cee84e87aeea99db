/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots of a machine of this process, and machines made from snapshots. docs/snapshots.md
 * describes the files and what they promise.
 *
 *   save:     snapshot_files_create -> snapshot_save -> snapshot_files_seal -> _commit (or _abort)
 *   restore:  snapshot_open (fills the options) -> machine.restore -> machine_create ->
 *             machine_start
 *
 * All on the event thread.
 */
#ifndef CMD_SNAPSHOT_H
#define CMD_SNAPSHOT_H

#include "cmd/snap_file.h"
#include "core/if/host.h"

struct machine;
struct run_options;
struct snapshot;
struct restore;

enum { SNAPSHOT_PATH_MAX = 4096 };

/* --- saving ------------------------------------------------------------------------------------
 */

/* Two files under temporary names beside their places, so that nobody sees half a snapshot. */
struct snapshot_files {
    char state[SNAPSHOT_PATH_MAX], memory[SNAPSHOT_PATH_MAX];
    char state_tmp[SNAPSHOT_PATH_MAX], memory_tmp[SNAPSHOT_PATH_MAX];
    int state_fd, memory_fd; /* -1: none */
};

/* memory NULL: "STATE.mem". 0 or a negative code, nothing left behind then. */
int snapshot_files_create(struct snapshot_files *f, const char *state, const char *memory,
                          struct err *err);
/* Checksums of what snapshot_save wrote. They take longer than the copy, so the machine runs again
 * meanwhile, and it is not its process that works (`sosia snapshot`). On failure: _abort. */
int snapshot_files_seal(struct snapshot_files *f, struct err *err);
/* Puts them in their places, memory first; sync: on the disk before. On failure they are gone. */
int snapshot_files_commit(struct snapshot_files *f, bool sync, struct err *err);
void snapshot_files_abort(struct snapshot_files *f);

struct snapshot_save {
    int state_fd, memory_fd; /* empty files for writing; stay the caller's */
    const char *state_path;  /* where the state file will be: base of the next incremental */
    const char *memory_path; /* NULL: the state file's name and ".mem" */
    bool incremental;        /* pages written since the last one only (or since the restore);
                                the first one has all */
    bool track;              /* note pages from now on, for an incremental one */
    bool paused;             /* leave the machine paused (once more than it was) */
};

struct snapshot_result {
    u64 pause_ns, memory_bytes; /* the machine stood still so long; bytes of pages written */
    u64 state_bytes;
    bool incremental; /* it was not the first one */
};

/* Saves m to files that snapshot_files_seal must see; m goes on running also when this fails:
 * -ERR_NOSPACE, -ERR_IO, -ERR_STATE ... */
int snapshot_save(struct machine *m, const struct snapshot_save *o, struct snapshot_result *result,
                  struct err *err);

/* Notes from now on which pages are written, for incremental snapshots (track_dirty_pages). May be
 * called again. */
int snapshot_track(struct machine *m, struct err *err);

/* snap_merge.c: a full snapshot `out` out of a full one and an incremental one that stands on it.
 */
int snapshot_merge(const char *base, const char *path, const char *out, struct err *err);

/* Which of the two a machine of this process does, part of machine_start and machine_destroy:
 * serves the request "snapshot" on the control socket. */
int snapshot_start(struct machine *m, struct err *err);
void snapshot_end(struct machine *m);
/* Disk i has another file now (machine.o.disk[i]). */
void snapshot_disk_changed(struct machine *m, u32 i);

/* --- restoring ---------------------------------------------------------------------------------
 */

enum { SNAPSHOT_MAX_CHAIN = 32 };

struct snapshot_open {
    const char *state_path;
    const char *memory_path; /* NULL: where the state file says */
    const char *uffd_path;   /* socket of a page fault handler (Firecracker's protocol); NULL: the
                                memory file is mapped. Not for incremental ones. */
    bool check;              /* read all the memory and compare its checksums first */
    bool overlay;            /* writes to disks go to files without a name */
    bool force;              /* disks that were written since, files that others can write */
    bool track;              /* as in snapshot_save */
    /* Optional: changes the options before anything that they name is looked at. */
    int (*adjust)(void *ctx, struct run_options *o, struct err *err);
    void *adjust_ctx;
};

/*
 * Opens and checks a snapshot and fills *o (zeroed) with its machine's options: the caller may
 * change engine, name, console, paths of disks and back ends of networks, nothing that the guest
 * sees. Then machine.restore = *out, which machine_destroy frees.
 */
int snapshot_open(const struct snapshot_open *how, struct run_options *o, struct restore **out,
                  struct err *err);
void restore_free(struct restore *r);
const struct snap_info *restore_info(const struct restore *r);

/* machine_create: before the board is made, memory and processor into machine.cfg; after it, state,
 * and a new generation for the guest. */
int restore_prepare(struct machine *m, struct err *err);
int restore_load(struct machine *m, struct err *err);

#endif
