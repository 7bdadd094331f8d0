/*
 * For LD_PRELOAD: SPDK's FTL keeps metadata in files in /dev/hugepages, and here they go to $FTL_HUGEPAGES, a folder of a
 * test's own. So it runs without huge pages, root, and a hugetlbfs. Nothing is locked in memory either, of which an
 * ordinary user has only some MiB.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char THERE[] = "/dev/hugepages/";

static const char *here(const char *path, char *room, size_t size)
{
    const char *folder = getenv("FTL_HUGEPAGES");
    if (folder == NULL || strncmp(path, THERE, sizeof(THERE) - 1) != 0) {
        return path;
    }
    snprintf(room, size, "%s/%s", folder, path + sizeof(THERE) - 1);
    return room;
}

static int open_as(const char *name, const char *path, int flags, mode_t mode)
{
    char room[4096];
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    return real(here(path, room, sizeof(room)), flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_as("open", path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_as("open64", path, flags, mode);
}

int unlink(const char *path)
{
    char room[4096];
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    return real(here(path, room, sizeof(room)));
}

int mlock(const void *start, size_t size)
{
    (void)start;
    (void)size;
    return 0;
}
