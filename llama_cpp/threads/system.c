#if !defined(_WIN32)
#define _GNU_SOURCE
#endif
#include "system.h"

#include <stdlib.h>

struct start {
    void (*run)(void *);
    void * argument;
};

#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

uint64_t system_now(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (uint64_t) ((double) count.QuadPart * 1e9 / (double) frequency.QuadPart);
}

void system_yield(void) {
    SwitchToThread();
}

void system_sleep(_Atomic uint32_t * word, uint32_t old) {
    WaitOnAddress((volatile void *) word, &old, sizeof old, INFINITE);
}

void system_wake(_Atomic uint32_t * word) {
    WakeByAddressAll((void *) word);
}

static DWORD WINAPI started(LPVOID given) {
    struct start start = *(struct start *) given;
    free(given);
    start.run(start.argument);
    return 0;
}

bool system_thread(void (*run)(void *), void * argument) {
    struct start * start = malloc(sizeof *start);
    if (!start) {
        return false;
    }
    *start = (struct start){run, argument};
    HANDLE thread = CreateThread(NULL, 0, started, start, 0, NULL);
    if (!thread) {
        free(start);
        return false;
    }
    CloseHandle(thread);
    return true;
}

void system_stay(void (*renew)(void)) {
    HMODULE self;
    (void) renew; // no fork
    GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, (LPCSTR) &system_stay, &self);
}

int system_processors(void) {
    DWORD_PTR ours, all;
    int count = 0;
    // Zero where the process has threads in several groups of processors: then it may use all of them.
    if (GetProcessAffinityMask(GetCurrentProcess(), &ours, &all) && ours) {
        for (; ours; ours &= ours - 1) {
            count++;
        }
        if (GetActiveProcessorGroupCount() <= 1) {
            return count;
        }
    }
    int active = (int) GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    return active > 0 ? active : 1;
}

#else

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

uint64_t system_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

void system_yield(void) {
    sched_yield();
}

static void * started(void * given) {
    struct start start = *(struct start *) given;
    free(given);
    start.run(start.argument);
    return NULL;
}

bool system_thread(void (*run)(void *), void * argument) {
    struct start * start = malloc(sizeof *start);
    pthread_attr_t attributes;
    if (!start || pthread_attr_init(&attributes)) {
        free(start);
        return false;
    }
    *start = (struct start){run, argument};
    const size_t enough = 2u << 20; // musl gives 128 kB
    size_t size = 0;
    if (!pthread_attr_getstacksize(&attributes, &size) && size < enough) {
        pthread_attr_setstacksize(&attributes, enough);
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    bool made = !pthread_create(&thread, &attributes, started, start);
    pthread_attr_destroy(&attributes);
    if (!made) {
        free(start);
    }
    return made;
}

static void (*renewed)(void);
static void after_fork(void);

void system_stay(void (*renew)(void)) {
    Dl_info self;
    renewed = renew;
    if (dladdr((void *) (uintptr_t) &system_stay, &self)) {
        dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE); // never closed
    }
    pthread_atfork(NULL, NULL, after_fork);
}

#if defined(__linux__)

#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

void system_sleep(_Atomic uint32_t * word, uint32_t old) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
}

void system_wake(_Atomic uint32_t * word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void after_fork(void) {
    renewed();
}

// The processors in the calling thread's affinity mask; sched_getaffinity(2).
static int allowed(void) {
    unsigned long mask[1024] = {0}; // 65,536 processors
    long bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
    int count = 0;
    for (size_t i = 0; bytes > 0 && i < (size_t) bytes / sizeof *mask; i++) {
        count += __builtin_popcountl(mask[i]);
    }
    return count > 0 ? count : (int) sysconf(_SC_NPROCESSORS_ONLN);
}

// Read one line of a file. False where it cannot be read.
static bool line_of(const char * path, char * line, int size) {
    FILE * file = fopen(path, "re");
    bool read = file && fgets(line, size, file);
    if (file) {
        fclose(file);
    }
    return read;
}

// The quota of one control group as processors, rounded up; 0 where it has none. cpu.max of version 2 is "QUOTA PERIOD" or
// "max PERIOD", version 1 has a file for each, and -1 for none (Linux: admin-guide/cgroup-v2, scheduler/sched-bwc).
static int quota_of(const char * folder) {
    char path[4300], line[64];
    long long quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (line_of(path, line, sizeof line)) {
        if (sscanf(line, "%lld %lld", &quota, &period) != 2) {
            return 0;
        }
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
        if (!line_of(path, line, sizeof line) || sscanf(line, "%lld", &quota) != 1) {
            return 0;
        }
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
        if (!line_of(path, line, sizeof line) || sscanf(line, "%lld", &period) != 1) {
            return 0;
        }
    }
    return quota > 0 && period > 0 ? (int) ((quota + period - 1) / period) : 0;
}

// The lowest quota of a control group and those that it lies in. In a container the path may be the host's, of which only the end
// of the walk, the mounted root, is there.
static int quota_from(const char * mount, const char * group) {
    char folder[4200];
    int lowest = 0;
    int length = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (length < 0 || length >= (int) sizeof folder) {
        return 0;
    }
    for (size_t root = strlen(mount);;) {
        int quota = quota_of(folder);
        if (quota && (!lowest || quota < lowest)) {
            lowest = quota;
        }
        if (strlen(folder) <= root) {
            return lowest;
        }
        *strrchr(folder, '/') = 0;
    }
}

// Does the comma separated list hold this word?
static bool lists(const char * list, const char * word) {
    size_t length = strlen(word);
    for (const char * at = list; (at = strstr(at, word)); at += length) {
        if ((at == list || at[-1] == ',') && (at[length] == 0 || at[length] == ',')) {
            return true;
        }
    }
    return false;
}

// The CPU quota of this process as processors, rounded up; 0 where it has none. /proc/self/cgroup has lines ID:CONTROLLERS:PATH,
// cgroups(7); version 2 has no controllers there.
static int quota(void) {
    char line[4200], mount[300];
    FILE * groups = fopen("/proc/self/cgroup", "re");
    int lowest = 0;
    while (groups && fgets(line, sizeof line, groups)) {
        line[strcspn(line, "\n")] = 0;
        char * controllers = strchr(line, ':');
        char * path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path || path[1] != '/') {
            continue;
        }
        *path++ = 0;
        controllers++;
        path = path[1] ? path : path + 1; // the root is the mount itself
        int found = 0;
        if (!*controllers) {
            found = quota_from("/sys/fs/cgroup", path);
        } else if (lists(controllers, "cpu")) {
            snprintf(mount, sizeof mount, "/sys/fs/cgroup/%.200s", controllers);
            found = quota_from(mount, path);
            found = found ? found : quota_from("/sys/fs/cgroup/cpu", path);
        }
        if (found && (!lowest || found < lowest)) {
            lowest = found;
        }
    }
    if (groups) {
        fclose(groups);
    }
    return lowest;
}

int system_processors(void) {
    int processors = allowed(), share = quota();
    processors = share && share < processors ? share : processors;
    return processors > 0 ? processors : 1;
}

#else // macOS, and what else has threads: there is no portable way to sleep on a word, but a condition serves for all words

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

static void after_fork(void) {
    pthread_mutex_init(&mutex, NULL); // another thread may have held it
    pthread_cond_init(&condition, NULL);
    renewed();
}

void system_sleep(_Atomic uint32_t * word, uint32_t old) {
    pthread_mutex_lock(&mutex);
    if (atomic_load(word) == old) {
        pthread_cond_wait(&condition, &mutex);
    }
    pthread_mutex_unlock(&mutex);
}

void system_wake(_Atomic uint32_t * word) {
    (void) word;
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&condition);
    pthread_mutex_unlock(&mutex);
}

int system_processors(void) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int) online : 1;
}

#endif
#endif
