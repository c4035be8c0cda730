/* Preloaded into k1ops by the fault suite: lets the n-th matching call fail, or the clock jump.
 *
 *   SHIM_CALL   write, sync, rename, read, open, unlink or clock
 *   SHIM_PATH   only files whose path contains this
 *   SHIM_NTH    from which matching call on, counted from 1
 *   SHIM_ERRNO  what it fails with
 *   SHIM_STICKY 1: every later matching call fails too, as on a disk that is full or gone
 *   SHIM_SHIFT  seconds that the clock jumps
 *   SHIM_MARK   a file that is made when the fault strikes
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *wanted, *part, *mark;
static long nth, shift;
static int number, sticky;
static atomic_long seen;

__attribute__((constructor)) static void configure(void) {
    wanted = getenv("SHIM_CALL");
    part = getenv("SHIM_PATH");
    mark = getenv("SHIM_MARK");
    nth = atol(getenv("SHIM_NTH") ? getenv("SHIM_NTH") : "1");
    number = atoi(getenv("SHIM_ERRNO") ? getenv("SHIM_ERRNO") : "5");
    sticky = getenv("SHIM_STICKY") && *getenv("SHIM_STICKY") == '1';
    shift = atol(getenv("SHIM_SHIFT") ? getenv("SHIM_SHIFT") : "0");
}

static int due(void) {
    long now = atomic_fetch_add(&seen, 1) + 1;
    int strikes = sticky ? now >= nth : now == nth;
    if (strikes && mark) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, mark, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        if (fd >= 0) syscall(SYS_close, fd);
    }
    return strikes;
}

static int path_fails(const char *call, const char *path) {
    if (!wanted || strcmp(wanted, call) || !part || !path || !strstr(path, part)) return 0;
    if (!due()) return 0;
    errno = number;
    return 1;
}

static int fd_fails(const char *call, int fd) {
    char link[64], path[4096];
    ssize_t length;
    if (!wanted || strcmp(wanted, call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return path_fails(call, path);
}

ssize_t write(int fd, const void *b, size_t n) { return fd_fails("write", fd) ? -1 : syscall(SYS_write, fd, b, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { return fd_fails("write", fd) ? -1 : syscall(SYS_writev, fd, v, n); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { return fd_fails("write", fd) ? -1 : syscall(SYS_pwrite64, fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { return fd_fails("write", fd) ? -1 : syscall(SYS_pwrite64, fd, b, n, o); }
int ftruncate64(int fd, off64_t n) { return fd_fails("write", fd) ? -1 : (int)syscall(SYS_ftruncate, fd, n); }
ssize_t read(int fd, void *b, size_t n) { return fd_fails("read", fd) ? -1 : syscall(SYS_read, fd, b, n); }
ssize_t pread(int fd, void *b, size_t n, off_t o) { return fd_fails("read", fd) ? -1 : syscall(SYS_pread64, fd, b, n, o); }
ssize_t pread64(int fd, void *b, size_t n, off64_t o) { return fd_fails("read", fd) ? -1 : syscall(SYS_pread64, fd, b, n, o); }
int fsync(int fd) { return fd_fails("sync", fd) ? -1 : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fd_fails("sync", fd) ? -1 : (int)syscall(SYS_fdatasync, fd); }
int unlink(const char *p) { return path_fails("unlink", p) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, p, 0); }
int rename(const char *a, const char *b) {
    return path_fails("rename", b) ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 0);
}

static int open_any(const char *path, int flags, va_list rest) {
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    return path_fails("open", path) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = open_any(path, flags, rest);
    va_end(rest);
    return fd;
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = open_any(path, flags, rest);
    va_end(rest);
    return fd;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int result = (int)syscall(SYS_clock_gettime, clock, at);
    if (result == 0 && clock == CLOCK_REALTIME && wanted && !strcmp(wanted, "clock") && due())
        at->tv_sec += shift;
    return result;
}
