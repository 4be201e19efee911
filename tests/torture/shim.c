/* An unlucky machine, loaded before libc (LD_PRELOAD): its process is killed at the Nth file operation below a folder,
 * with that write cut in half; or its disk is full from the Nth write on; its host has another name, its clock runs
 * late, its file system knows no flock. Python arms it by ctypes; until then it counts nothing.
 *
 * Only calls through the dynamic linker are seen: those of Python, Rust and libstdc++, not libc's own of fopen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 1, KILL = 2, FULL = 3 };

/* What the process that armed it reads when this one is dead. */
static struct {
    volatile long seen;  /* operations below the folder */
    volatile long hits;  /* operations that were stopped */
} *shared;

static int mode;
static long at;
static int failure;  /* of a full disk: ENOSPC, EDQUOT, EIO */
static char folder[PATH_MAX];
static size_t folder_length;
static char host[256];
static long late_seconds;
static int without_flock;

/* The function that this one stands before. */
#define REAL(name)                                              \
    (*({                                                        \
        static __typeof__(&name) real;                          \
        if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
        real;                                                   \
    }))

__attribute__((constructor)) static void begin(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void shim_arm(int how, long operation, const char *below, int error) {
    shared->seen = shared->hits = 0;
    at = operation;
    snprintf(folder, sizeof folder, "%s", below);
    folder_length = strlen(folder);
    failure = error;
    mode = how;
}

void shim_world(const char *name, long late, int no_flock) {
    snprintf(host, sizeof host, "%s", name);
    late_seconds = late;
    without_flock = no_flock;
}

long shim_seen(void) { return shared->seen; }
long shim_hits(void) { return shared->hits; }

static int below(const char *path) {
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* Whether a descriptor's file, or a path relative to it, lies below the folder. */
static int concerns(int directory, const char *path) {
    char link[64], target[PATH_MAX];
    if (!mode || (path && *path == '/')) return mode && below(path);
    if (directory == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0) return 0;
    target[length] = 0;
    return below(target);
}

/* Whether this operation is the one, or on a full disk one of those, that the machine does not finish. */
static int unlucky(int takes_space) {
    if (mode == FULL && !takes_space) return 0;
    long number = __atomic_add_fetch(&shared->seen, 1, __ATOMIC_SEQ_CST);
    int stopped = mode == KILL ? number == at : mode == FULL && number >= at;
    if (stopped) __atomic_add_fetch(&shared->hits, 1, __ATOMIC_SEQ_CST);
    return stopped;
}

/* 0, or no return from a killed process, or -1 with the error of a full disk. */
static int stopped(int takes_space) {
    if (!unlucky(takes_space)) return 0;
    if (mode == KILL) for (;;) kill(getpid(), SIGKILL);
    errno = failure;
    return -1;
}

/* Of a write of ``size`` bytes: how many still come to the disk; -1: it may pass whole. */
static ssize_t cut(int file, size_t size) {
    if (!concerns(file, NULL) || !unlucky(1)) return -1;
    return mode == FULL && shared->hits > 1 ? 0 : (ssize_t)(size / 2);
}

static ssize_t after_cut(ssize_t written) {
    if (mode == KILL) for (;;) kill(getpid(), SIGKILL);
    if (written > 0) return written;  /* a short write first, as a disk that fills up does */
    errno = failure;
    return -1;
}

ssize_t write(int file, const void *from, size_t size) {
    ssize_t left = cut(file, size);
    if (left < 0) return REAL(write)(file, from, size);
    return after_cut(left ? REAL(write)(file, from, left) : 0);
}

ssize_t writev(int file, const struct iovec *from, int count) {
    size_t size = 0;
    for (int i = 0; i < count; i++) size += from[i].iov_len;
    ssize_t left = cut(file, size);
    if (left < 0) return REAL(writev)(file, from, count);
    return after_cut(left && count ? REAL(write)(file, from[0].iov_base, from[0].iov_len / 2) : 0);
}

#define PWRITE(name, offset_t)                                                 \
    ssize_t name(int file, const void *from, size_t size, offset_t offset) {   \
        ssize_t left = cut(file, size);                                        \
        if (left < 0) return REAL(name)(file, from, size, offset);             \
        return after_cut(left ? REAL(name)(file, from, left, offset) : 0);     \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

/* Opening counts where it may change something; it takes space where it makes a file. */
static int opening_stopped(int directory, const char *path, int flags) {
    if (!(flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR)) || !concerns(directory, path)) return 0;
    struct stat status;
    int makes = (flags & O_CREAT) && fstatat(directory, path, &status, AT_SYMLINK_NOFOLLOW) < 0;
    return stopped(makes);
}

#define PERMISSIONS(permissions, flags)             \
    mode_t permissions = 0;                         \
    if ((flags) & (O_CREAT | O_TMPFILE)) {          \
        va_list more;                               \
        va_start(more, flags);                      \
        permissions = va_arg(more, mode_t);         \
        va_end(more);                               \
    }

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...) {                       \
        PERMISSIONS(permissions, flags)                                \
        if (opening_stopped(AT_FDCWD, path, flags)) return -1;         \
        return REAL(name)(path, flags, permissions);                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                   \
    int name(int directory, const char *path, int flags, ...) {        \
        PERMISSIONS(permissions, flags)                                \
        if (opening_stopped(directory, path, flags)) return -1;        \
        return REAL(name)(directory, path, flags, permissions);        \
    }
OPENAT(openat)
OPENAT(openat64)

#define STOPS(type, name, parameters, arguments, where, takes_space)   \
    type name parameters {                                             \
        if (concerns where && stopped(takes_space)) return -1;         \
        return REAL(name) arguments;                                   \
    }
STOPS(int, rename, (const char *old, const char *new), (old, new), (AT_FDCWD, new), 0)
STOPS(int, renameat, (int from, const char *old, int to, const char *new), (from, old, to, new), (to, new), 0)
STOPS(int, unlink, (const char *path), (path), (AT_FDCWD, path), 0)
STOPS(int, unlinkat, (int directory, const char *path, int flags), (directory, path, flags), (directory, path), 0)
STOPS(int, rmdir, (const char *path), (path), (AT_FDCWD, path), 0)
STOPS(int, mkdir, (const char *path, mode_t permissions), (path, permissions), (AT_FDCWD, path), 1)
STOPS(int, mkdirat, (int directory, const char *path, mode_t permissions), (directory, path, permissions),
      (directory, path), 1)
STOPS(int, fsync, (int file), (file), (file, NULL), 0)
STOPS(int, ftruncate, (int file, off_t size), (file, size), (file, NULL), 0)
STOPS(int, ftruncate64, (int file, off64_t size), (file, size), (file, NULL), 0)

int flock(int file, int operation) {
    if (!without_flock) return REAL(flock)(file, operation);
    errno = EOPNOTSUPP;
    return -1;
}

int gethostname(char *name, size_t size) {
    if (!*host) return REAL(gethostname)(name, size);
    snprintf(name, size, "%s", host);
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec -= late_seconds;
    return result;
}
