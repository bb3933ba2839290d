/* Writes down what programs do to the files below one folder, in the order in which it happens: the material from which a test makes up
 * what a disk would hold after a power cut.
 *
 * A library for LD_PRELOAD. LSD_TRACE_ROOT is the folder, as an absolute path without symbolic links, and LSD_TRACE_FILE the file that
 * the records are appended to by all processes. Each call is made and written down under one lock, so that the order of the records is
 * one in which everything may really have happened.
 *
 * A record is a header of eight 32-bit numbers (kind, process, file descriptor, flags, the two halves of an offset, and the lengths of
 * what follows) and up to two byte strings: paths, or what was written.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_FD = 65536 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *root;
static size_t root_length;
static int trace = -1;
static unsigned char tracked[MAX_FD];

#define REAL(result, name, ...) \
    static result (*real_##name)(__VA_ARGS__); \
    static result (*get_##name(void))(__VA_ARGS__) \
    { \
        if (!real_##name) \
            *(void **)&real_##name = dlsym(RTLD_NEXT, #name); \
        return real_##name; \
    }

REAL(int, openat, int, const char *, int, ...)
REAL(int, close, int)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(int, ftruncate, int, off_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, renameat2, int, const char *, int, const char *, unsigned)
REAL(int, linkat, int, const char *, int, const char *, int)
REAL(int, unlinkat, int, const char *, int)
REAL(int, mkdirat, int, const char *, mode_t)

static void start(void)
{
    const char *file = getenv("LSD_TRACE_FILE");
    root = getenv("LSD_TRACE_ROOT");
    if (!root || !file)
        return;
    root_length = strlen(root);
    trace = get_openat()(AT_FDCWD, file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (trace < 0) {
        perror(file);
        _exit(99);
    }
}

/* The absolute path, if it is below the root; else nothing. */
static const char *below(int folder, const char *path, char *buffer)
{
    pthread_once(&once, start);
    if (trace < 0 || !path)
        return NULL;
    if (path[0] == '/') {
        snprintf(buffer, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX], link[64];
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base))
                return NULL;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0)
                return NULL;
            base[length] = 0;
        }
        if (snprintf(buffer, PATH_MAX, "%s/%s", base, path) >= PATH_MAX)
            return NULL;
    }
    size_t length = strlen(buffer);
    while (length > 1 && buffer[length - 1] == '/')
        buffer[--length] = 0;
    if (strncmp(buffer, root, root_length) || (buffer[root_length] != '/' && buffer[root_length] != 0))
        return NULL;
    return buffer;
}

static int is_tracked(int fd)
{
    return fd >= 0 && fd < MAX_FD && tracked[fd];
}

static void enter(void)
{
    pthread_mutex_lock(&lock);
    while (flock(trace, LOCK_EX) && errno == EINTR) {
    }
}

static void leave(void)
{
    int saved = errno;
    flock(trace, LOCK_UN);
    pthread_mutex_unlock(&lock);
    errno = saved;
}

static void record(char kind, int fd, int flags, int64_t offset, const void *first, size_t first_length, const void *second,
                   size_t second_length)
{
    int saved = errno;
    uint32_t header[8] = {(uint32_t)kind, (uint32_t)getpid(), (uint32_t)fd, (uint32_t)flags, (uint32_t)offset,
                          (uint32_t)((uint64_t)offset >> 32), (uint32_t)first_length, (uint32_t)second_length};
    struct iovec pieces[3] = {{header, sizeof header}, {(void *)first, first_length}, {(void *)second, second_length}};
    if (get_writev()(trace, pieces, 3) != (ssize_t)(sizeof header + first_length + second_length)) {
        perror("trace");
        _exit(99);
    }
    errno = saved;
}

static int traced_open(int folder, const char *path, int flags, mode_t mode)
{
    char buffer[PATH_MAX];
    const char *name = below(folder, path, buffer);
    if (!name)
        return get_openat()(folder, path, flags, mode);
    enter();
    int fd = get_openat()(folder, path, flags, mode);
    if (fd >= 0 && fd < MAX_FD) {
        tracked[fd] = 1;
        record('O', fd, flags, 0, name, strlen(name), NULL, 0);
    }
    leave();
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list arguments; \
        va_start(arguments, flags); \
        mode = va_arg(arguments, mode_t); \
        va_end(arguments); \
    }

int open(const char *path, int flags, ...)
{
    MODE(flags)
    return traced_open(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE(flags)
    return traced_open(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

int openat(int folder, const char *path, int flags, ...)
{
    MODE(flags)
    return traced_open(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...)
{
    MODE(flags)
    return traced_open(folder, path, flags | O_LARGEFILE, mode);
}

int close(int fd)
{
    if (!is_tracked(fd))
        return get_close()(fd);
    enter();
    tracked[fd] = 0;
    int result = get_close()(fd);
    record('C', fd, 0, 0, NULL, 0, NULL, 0);
    leave();
    return result;
}

static void written(int fd, int64_t end, const void *bytes, ssize_t count)
{
    if (count > 0)
        record('W', fd, 0, end - count, bytes, (size_t)count, NULL, 0);
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    if (!is_tracked(fd))
        return get_write()(fd, bytes, count);
    enter();
    ssize_t result = get_write()(fd, bytes, count);
    written(fd, lseek(fd, 0, SEEK_CUR), bytes, result);
    leave();
    return result;
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    if (!is_tracked(fd))
        return get_writev()(fd, pieces, count);
    /* One piece at a time is a legal short write. */
    for (int index = 0; index < count; index++)
        if (pieces[index].iov_len)
            return write(fd, pieces[index].iov_base, pieces[index].iov_len);
    return 0;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    if (!is_tracked(fd))
        return get_pwrite()(fd, bytes, count, offset);
    enter();
    ssize_t result = get_pwrite()(fd, bytes, count, offset);
    written(fd, offset + result, bytes, result);
    leave();
    return result;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    return pwrite(fd, bytes, count, offset);
}

int ftruncate(int fd, off_t length)
{
    if (!is_tracked(fd))
        return get_ftruncate()(fd, length);
    enter();
    int result = get_ftruncate()(fd, length);
    if (!result)
        record('T', fd, 0, length, NULL, 0, NULL, 0);
    leave();
    return result;
}

int ftruncate64(int fd, off64_t length)
{
    return ftruncate(fd, length);
}

static int synced(int fd, int (*sync)(int))
{
    if (!is_tracked(fd))
        return sync(fd);
    enter();
    int result = sync(fd);
    if (!result)
        record('S', fd, 0, 0, NULL, 0, NULL, 0);
    leave();
    return result;
}

int fsync(int fd)
{
    return synced(fd, get_fsync());
}

int fdatasync(int fd)
{
    return synced(fd, get_fdatasync());
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX];
    const char *source = below(from_folder, from, from_buffer), *target = below(to_folder, to, to_buffer);
    if (!source || !target)
        return get_renameat2()(from_folder, from, to_folder, to, flags);
    enter();
    int result = get_renameat2()(from_folder, from, to_folder, to, flags);
    if (!result)
        record('R', -1, 0, 0, source, strlen(source), target, strlen(target));
    leave();
    return result;
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX];
    const char *source = below(from_folder, from, from_buffer), *target = below(to_folder, to, to_buffer);
    if (!source || !target)
        return get_linkat()(from_folder, from, to_folder, to, flags);
    enter();
    int result = get_linkat()(from_folder, from, to_folder, to, flags);
    if (!result)
        record('L', -1, 0, 0, source, strlen(source), target, strlen(target));
    leave();
    return result;
}

int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int folder, const char *path, int flags)
{
    char buffer[PATH_MAX];
    const char *name = below(folder, path, buffer);
    if (!name)
        return get_unlinkat()(folder, path, flags);
    enter();
    int result = get_unlinkat()(folder, path, flags);
    if (!result)
        record('U', -1, 0, 0, name, strlen(name), NULL, 0);
    leave();
    return result;
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    char buffer[PATH_MAX];
    const char *name = below(folder, path, buffer);
    if (!name)
        return get_mkdirat()(folder, path, mode);
    enter();
    int result = get_mkdirat()(folder, path, mode);
    if (!result)
        record('M', -1, 0, 0, name, strlen(name), NULL, 0);
    leave();
    return result;
}

int mkdir(const char *path, mode_t mode)
{
    return mkdirat(AT_FDCWD, path, mode);
}
