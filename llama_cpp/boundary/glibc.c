/* What gcc's static libstdc++ takes of a glibc newer than the one that the plugin is linked for. */
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HIDDEN __attribute__((visibility("hidden")))

/* glibc 2.32. Is there one thread alone? Saying no costs an atomic instruction. */
HIDDEN char __libc_single_threaded = 0;

/* glibc 2.25. */
HIDDEN int getentropy(void * buffer, size_t size) {
    return syscall(SYS_getrandom, buffer, size, 0) == (long) size ? 0 : -1;
}

/* glibc 2.36. */
HIDDEN uint32_t arc4random(void) {
    uint32_t number = 0;
    while (syscall(SYS_getrandom, &number, sizeof number, 0) != sizeof number) {
    }
    return number;
}

/* glibc 2.38: the functions of C23, by which headers of newer systems replace these. They differ in 0b101 alone. */
#define C23(TYPE, NAME, PARAMETERS, ARGUMENTS) \
    TYPE NAME PARAMETERS;                      \
    HIDDEN TYPE __isoc23_##NAME PARAMETERS { return NAME ARGUMENTS; }
C23(long, strtol, (const char * text, char ** end, int base), (text, end, base))
C23(long long, strtoll, (const char * text, char ** end, int base), (text, end, base))
C23(unsigned long, strtoul, (const char * text, char ** end, int base), (text, end, base))
C23(unsigned long long, strtoull, (const char * text, char ** end, int base), (text, end, base))
