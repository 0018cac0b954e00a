// What threads.c wants of the system: time, threads, sleep, and the number of processors.
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

// Tell the processor that this thread only waits.
static inline void system_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

// A clock that only goes forward, in nanoseconds.
uint64_t system_now(void);

// Let another thread have this one's processor, if one waits for it.
void system_yield(void);

// Sleep as long as *word is `old`. May return early, for no reason.
void system_sleep(_Atomic uint32_t * word, uint32_t old);

// Wake everybody who sleeps on `word`.
void system_wake(_Atomic uint32_t * word);

// Start a thread that nobody joins. False where the system has none to give.
bool system_thread(void (*run)(void *), void * argument);

// Keep this library in memory, since its threads stay, and call `renew` in the child of each fork.
void system_stay(void (*renew)(void));

// How many processors this process may use, at least 1: those of its affinity mask, and no more than the CPU quota of its control
// groups, rounded up.
int system_processors(void);
