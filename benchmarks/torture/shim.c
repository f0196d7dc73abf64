/* Counts the calls by which a process changes files below one folder, and stops before one of them, or lets it fail.

   Told by the environment:
     TORTURE_ROOT  the folder; calls elsewhere pass
     TORTURE_LOG   a file elsewhere: a line for each call, and what the disk was told to keep
     TORTURE_KEPT  a folder elsewhere: a copy of each file as it was when it was synced last
     TORTURE_AT    the number of the call at which it happens, from 1 on; nothing happens without it
     TORTURE_HOW   stop: the process stops before that call until it is told to go on;
                   or an errno (28: the disk is full) with which the call fails
     TORTURE_MANY  how many calls from there on

   A disk that loses its power keeps of a file what it was when it was synced, and of a folder the names that it had
   when it was synced. Both are written down here, by inode and time of birth, for inodes are used again. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))real(#name))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long made;
static int log_file = -1;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int is_below(const char *path) {
    const char *root = getenv("TORTURE_ROOT");
    char whole[8192];
    if (!root || !path) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, 4096)) return 0;
        strcat(whole, "/");
        strncat(whole, path, 4000);
        path = whole;
    }
    size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static void say(const char *text) {
    if (log_file < 0 && getenv("TORTURE_LOG"))
        log_file = syscall(SYS_openat, AT_FDCWD, getenv("TORTURE_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log_file >= 0) syscall(SYS_write, log_file, text, strlen(text));
}

/* Whether the call is to fail. Where the process is to stop, all its threads do, before the call is made. */
static int fails(const char *call, const char *path) {
    pthread_mutex_lock(&lock);
    long number = ++made;
    char line[9000];
    snprintf(line, sizeof line, "call %s %s\n", call, path);
    say(line);
    pthread_mutex_unlock(&lock);
    const char *at = getenv("TORTURE_AT"), *how = getenv("TORTURE_HOW"), *many = getenv("TORTURE_MANY");
    if (!at || number < atol(at) || number >= atol(at) + (many ? atol(many) : 1)) return 0;
    if (!strcmp(how, "stop")) {
        raise(SIGSTOP);
        return 0;
    }
    errno = atoi(how);
    return 1;
}

static int identify(int folder, const char *name, char *text, size_t size, int *is_folder) {
    struct statx about;
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    if (statx(folder, name, flags, STATX_BASIC_STATS | STATX_BTIME, &about)) return 0;
    *is_folder = S_ISDIR(about.stx_mode);
    snprintf(text, size, "%llu-%lld-%u", (unsigned long long)about.stx_ino, (long long)about.stx_btime.tv_sec,
             about.stx_btime.tv_nsec);
    return 1;
}

/* What a disk keeps from here on. */
static void keep(int fd) {
    char id[128], other[128], line[9000], path[8300], content[65536];
    int is_folder, inner_is_folder;
    if (!identify(fd, "", id, sizeof id, &is_folder)) return;
    pthread_mutex_lock(&lock);
    if (is_folder) {
        snprintf(line, sizeof line, "folder %s\n", id);
        say(line);
        int again = syscall(SYS_openat, fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *entries = again < 0 ? NULL : fdopendir(again);
        for (struct dirent *one; entries && (one = readdir(entries));) {
            if (!strcmp(one->d_name, ".") || !strcmp(one->d_name, "..")) continue;
            if (!identify(fd, one->d_name, other, sizeof other, &inner_is_folder)) continue;
            snprintf(line, sizeof line, "name %s %d %s\n", other, inner_is_folder, one->d_name);
            say(line);
        }
        if (entries) closedir(entries);
        say("whole\n");
    } else if (getenv("TORTURE_KEPT")) {
        char in_place[4200];
        snprintf(in_place, sizeof in_place, "%s/%s", getenv("TORTURE_KEPT"), id);
        snprintf(path, sizeof path, "%s.new", in_place);
        char own[64];
        snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
        int from = syscall(SYS_openat, AT_FDCWD, own, O_RDONLY | O_CLOEXEC);
        int to = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        for (ssize_t n; from >= 0 && to >= 0 && (n = syscall(SYS_read, from, content, sizeof content)) > 0;)
            if (syscall(SYS_write, to, content, n) != n) break;
        if (from >= 0) syscall(SYS_close, from);
        if (to >= 0) syscall(SYS_close, to);
        syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, in_place, 0);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- Calls by descriptor */

#define BY_DESCRIPTOR(type, name, parameters, arguments, fd)                  \
    type name parameters {                                                    \
        char path[4096];                                                      \
        if (path_of(fd, path, sizeof path) && fails(#name, path)) return -1;  \
        return REAL(name) arguments;                                          \
    }

BY_DESCRIPTOR(ssize_t, write, (int fd, const void *from, size_t count), (fd, from, count), fd)
BY_DESCRIPTOR(ssize_t, pwrite64, (int fd, const void *from, size_t count, off64_t at), (fd, from, count, at), fd)
BY_DESCRIPTOR(ssize_t, pwrite, (int fd, const void *from, size_t count, off_t at), (fd, from, count, at), fd)
BY_DESCRIPTOR(int, ftruncate, (int fd, off_t size), (fd, size), fd)
BY_DESCRIPTOR(int, ftruncate64, (int fd, off64_t size), (fd, size), fd)
BY_DESCRIPTOR(ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count), fd)
BY_DESCRIPTOR(ssize_t, pwritev, (int fd, const struct iovec *from, int count, off_t at), (fd, from, count, at), fd)
BY_DESCRIPTOR(ssize_t, pwritev64, (int fd, const struct iovec *from, int count, off64_t at), (fd, from, count, at), fd)
BY_DESCRIPTOR(ssize_t, pwritev2, (int fd, const struct iovec *from, int count, off_t at, int how),
              (fd, from, count, at, how), fd)
BY_DESCRIPTOR(ssize_t, pwritev64v2, (int fd, const struct iovec *from, int count, off64_t at, int how),
              (fd, from, count, at, how), fd)
BY_DESCRIPTOR(ssize_t, sendfile, (int fd, int from, off_t *at, size_t count), (fd, from, at, count), fd)
BY_DESCRIPTOR(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t count), (fd, from, at, count), fd)
BY_DESCRIPTOR(ssize_t, copy_file_range, (int from, off64_t *begin, int fd, off64_t *at, size_t count, unsigned how),
              (from, begin, fd, at, count, how), fd)
BY_DESCRIPTOR(ssize_t, splice, (int from, off64_t *begin, int fd, off64_t *at, size_t count, unsigned how),
              (from, begin, fd, at, count, how), fd)
BY_DESCRIPTOR(int, fallocate, (int fd, int how, off_t at, off_t size), (fd, how, at, size), fd)
BY_DESCRIPTOR(int, fallocate64, (int fd, int how, off64_t at, off64_t size), (fd, how, at, size), fd)
BY_DESCRIPTOR(int, fchmod, (int fd, mode_t mode), (fd, mode), fd)

/* These give the error, and leave errno alone. */
#define POSIX_FALLOCATE(name, type)                                           \
    int name(int fd, type at, type size) {                                    \
        char path[4096];                                                      \
        if (path_of(fd, path, sizeof path) && fails(#name, path)) return errno; \
        return REAL(name)(fd, at, size);                                      \
    }

POSIX_FALLOCATE(posix_fallocate, off_t)
POSIX_FALLOCATE(posix_fallocate64, off64_t)

#define SYNC(name)                                                              \
    int name(int fd) {                                                          \
        char path[4096];                                                        \
        int ours = path_of(fd, path, sizeof path);                              \
        if (ours && fails(#name, path)) return -1;                              \
        int done = REAL(name)(fd);                                              \
        if (ours && !done) keep(fd);                                            \
        return done;                                                            \
    }

SYNC(fsync)
SYNC(fdatasync)

/* ---- Calls by name */

#define BY_NAME(name, parameters, arguments, path)               \
    int name parameters {                                        \
        if (is_below(path) && fails(#name, path)) return -1;     \
        return REAL(name) arguments;                             \
    }

BY_NAME(rename, (const char *from, const char *to), (from, to), to)
BY_NAME(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), to)
BY_NAME(renameat2, (int a, const char *from, int b, const char *to, unsigned how), (a, from, b, to, how), to)
BY_NAME(link, (const char *from, const char *to), (from, to), to)
BY_NAME(linkat, (int a, const char *from, int b, const char *to, int how), (a, from, b, to, how), to)
BY_NAME(mkdir, (const char *path, mode_t mode), (path, mode), path)
BY_NAME(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), path)
BY_NAME(unlink, (const char *path), (path), path)
BY_NAME(rmdir, (const char *path), (path), path)
BY_NAME(remove, (const char *path), (path), path)
BY_NAME(symlink, (const char *target, const char *path), (target, path), path)
BY_NAME(symlinkat, (const char *target, int folder, const char *path), (target, folder, path), path)
BY_NAME(truncate, (const char *path, off_t size), (path, size), path)
BY_NAME(truncate64, (const char *path, off64_t size), (path, size), path)
BY_NAME(creat, (const char *path, mode_t mode), (path, mode), path)
BY_NAME(creat64, (const char *path, mode_t mode), (path, mode), path)
BY_NAME(chmod, (const char *path, mode_t mode), (path, mode), path)

int unlinkat(int folder, const char *name, int how) {
    char path[8192] = "";
    if (name[0] != '/' && folder != AT_FDCWD && path_of(folder, path, 4096)) strcat(path, "/");
    strncat(path, name, 4000);
    if (is_below(path) && fails("unlinkat", path)) return -1;
    return REAL(unlinkat)(folder, name, how);
}

#define OPEN(name)                                                                         \
    int name(const char *path, int how, ...) {                                             \
        va_list more;                                                                      \
        va_start(more, how);                                                               \
        mode_t mode = how & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;            \
        va_end(more);                                                                      \
        if (how & (O_CREAT | O_TRUNC) && is_below(path) && fails(#name, path)) return -1;  \
        return REAL(name)(path, how, mode);                                                \
    }

OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                       \
    int name(int folder, const char *path, int how, ...) {                                 \
        va_list more;                                                                      \
        va_start(more, how);                                                               \
        mode_t mode = how & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;            \
        va_end(more);                                                                      \
        if (how & (O_CREAT | O_TRUNC) && is_below(path) && fails(#name, path)) return -1;  \
        return REAL(name)(folder, path, how, mode);                                        \
    }

OPENAT(openat)
OPENAT(openat64)

/* ---- Streams, through which TensorFlow writes */

#define FOPEN(name)                                                                       \
    FILE *name(const char *path, const char *how) {                                       \
        if (how[0] != 'r' && is_below(path) && fails(#name, path)) return NULL;           \
        return REAL(name)(path, how);                                                     \
    }

FOPEN(fopen)
FOPEN(fopen64)

int fputs(const char *text, FILE *stream) {
    char path[4096];
    if (path_of(fileno(stream), path, sizeof path) && fails("fputs", path)) return EOF;
    return REAL(fputs)(text, stream);
}

size_t fwrite(const void *from, size_t size, size_t count, FILE *stream) {
    char path[4096];
    if (path_of(fileno(stream), path, sizeof path) && fails("fwrite", path)) return 0;
    return REAL(fwrite)(from, size, count, stream);
}

int fflush(FILE *stream) {
    char path[4096];
    if (stream && path_of(fileno(stream), path, sizeof path) && fails("fflush", path)) return EOF;
    return REAL(fflush)(stream);
}

int fclose(FILE *stream) {
    char path[4096];
    if (path_of(fileno(stream), path, sizeof path) && fails("fclose", path)) {
        int why = errno;
        REAL(fclose)(stream);
        errno = why;
        return EOF;
    }
    return REAL(fclose)(stream);
}
