/* Loaded into a server, makes its wall clock wrong by WALL_SECONDS. Other clocks are as they are. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, id, now);
    const char *seconds = getenv("WALL_SECONDS");
    if (!failed && id == CLOCK_REALTIME && seconds)
        now->tv_sec += atol(seconds);
    return (int)failed;
}
