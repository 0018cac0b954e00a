// The OpenMP that ggml's CPU backend is compiled for: teams of threads that wait for work, and their barrier.
//
// libgomp loses its threads in fork(), and then waits for them for ever. LLVM's libomp ends a process in which it meets another copy of
// itself, such as MKL's, and no package has it for musl or Windows. ggml needs little of either: parallel regions, `single`,
// `barrier`, and three questions. The compilers turn those into calls of the functions at the end of this file (clang: LLVM's kmp.h;
// gcc: libgomp_g.h).
//
// A team has at most one thread for each processor that the process may use: more only make each barrier slower. OMP_DYNAMIC=false
// gives what was asked for, OMP_THREAD_LIMIT=N at most N (OpenMP 5.2, section 21.1).
#include "omp.h"
#include "system.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#define LINE 64 // bytes of a cache line
#define ARGUMENTS 8

// How long a thread waits, and how, in nanoseconds. First it spins: most waits on an idle machine end then. Then it offers its
// processor, again and again, to whoever wants it: the thread that it waits for may be queued behind it. At last it sleeps. Measured on
// idle and busy machines (docs/benchmarks.md): a first offer after 1,000 loses a processor to others too often, one after 50,000
// wastes what two models share, and sleeping after 1,000,000 packs a team on one processor when the other is busy.
#define SPIN 10000
#define OFFER 20000
#define AWAKE 10000000

enum {
    SPINS_BETWEEN_CLOCKS = 32,
    MAX_THREADS = 4096,
};

typedef void work(void * data);

// A word that threads wait on, and how many of them sleep.
struct gate {
    _Alignas(LINE) _Atomic uint32_t word;
    _Atomic uint32_t asleep;
};

struct worker {
    struct gate go; // the word counts the regions that this worker was called to
    struct team * team;
    int id;
};

struct team {
    struct gate barrier; // counts the barriers passed
    struct gate done;    // counts the regions that all workers have left
    _Alignas(LINE) _Atomic uint32_t arrived;
    _Alignas(LINE) _Atomic uint32_t inside; // workers in the region
    _Alignas(LINE) work * run;
    void * data;
    int size; // threads in the region, with its master
    int workers; // threads made, without a master
    struct worker ** worker;
    struct team * next;
};

static _Thread_local struct team * team; // of the region that this thread is in
static _Thread_local int number;         // of this thread in it
static _Thread_local int wanted;         // num_threads of the next region

static atomic_flag lock = ATOMIC_FLAG_INIT; // for what follows
static struct team * idle;
static bool staying;
static int processors; // the threads that a region has where nobody asks for a number
static int most;       // the threads that a region has at most

static void take_lock(void) {
    while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)) {
        system_pause();
    }
}

static void leave_lock(void) {
    atomic_flag_clear_explicit(&lock, memory_order_release);
}

// In the child of a fork there is one thread, and no team has any.
static void renew(void) {
    idle = NULL;
    processors = 0;
    leave_lock();
}

// Wait until the gate's word is no longer `old`.
static void wait_at(struct gate * gate, uint32_t old) {
    uint64_t begun = 0, next = 0;
    for (;;) {
        for (int i = 0; i < SPINS_BETWEEN_CLOCKS; i++) {
            if (atomic_load_explicit(&gate->word, memory_order_acquire) != old) {
                return;
            }
            system_pause();
        }
        uint64_t now = system_now();
        if (!begun) {
            begun = now;
            next = now + SPIN;
        } else if (now - begun >= AWAKE) {
            break;
        } else if (now >= next) {
            system_yield();
            next = system_now() + OFFER;
        }
    }
    // Both here and in open_gate one writes before one reads what the other writes, in one order for all: nobody sleeps unnoticed.
    atomic_fetch_add(&gate->asleep, 1);
    while (atomic_load(&gate->word) == old) {
        system_sleep(&gate->word, old);
    }
    atomic_fetch_sub(&gate->asleep, 1);
}

static void open_gate(struct gate * gate) {
    atomic_fetch_add(&gate->word, 1);
    if (atomic_load(&gate->asleep)) {
        system_wake(&gate->word);
    }
}

static void barrier(void) {
    struct team * ours = team;
    if (!ours || ours->size == 1) {
        return;
    }
    uint32_t passed = atomic_load_explicit(&ours->barrier.word, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&ours->arrived, 1, memory_order_acq_rel) + 1 == (uint32_t) ours->size) {
        atomic_store_explicit(&ours->arrived, 0, memory_order_relaxed);
        open_gate(&ours->barrier);
    } else {
        wait_at(&ours->barrier, passed);
    }
}

static void serve(void * given) {
    struct worker * self = given;
    struct team * ours = self->team;
    team = ours;
    number = self->id;
    for (uint32_t seen = 0;; seen++) {
        wait_at(&self->go, seen);
        ours->run(ours->data);
        if (atomic_fetch_sub_explicit(&ours->inside, 1, memory_order_acq_rel) == 1) {
            open_gate(&ours->done);
        }
    }
}

static void * aligned(size_t size) {
    // Neither Windows nor macOS 11 has aligned_alloc; what is made here is never freed.
    char * memory = calloc(1, size + LINE);
    return memory ? memory + (LINE - (uintptr_t) memory % LINE) : NULL;
}

// One more worker for this team; false where there is no memory or no thread.
static bool grow(struct team * grown) {
    int count = grown->workers;
    if (!(count & (count - 1))) { // 0 or a power of two: the list is full
        struct worker ** more = realloc(grown->worker, (count ? 2u * (size_t) count : 1u) * sizeof *more);
        if (!more) {
            return false;
        }
        grown->worker = more;
    }
    struct worker * added = aligned(sizeof *added);
    if (!added) {
        return false;
    }
    added->team = grown;
    added->id = count + 1;
    if (!system_thread(serve, added)) {
        return false;
    }
    grown->worker[grown->workers++] = added;
    return true;
}

// An idle team, or a new one; NULL without memory.
static struct team * take_team(int size) {
    take_lock();
    struct team ** best = &idle;
    for (struct team ** at = &idle; *at; at = &(*at)->next) {
        if ((*at)->workers + 1 >= size) { // one with enough workers, before one that has to grow
            best = at;
            break;
        }
    }
    struct team * taken = *best;
    if (taken) {
        *best = taken->next;
    }
    leave_lock();
    taken = taken ? taken : aligned(sizeof *taken);
    while (taken && taken->workers + 1 < size && grow(taken)) {
    }
    return taken;
}

static void give_back(struct team * given) {
    take_lock();
    given->next = idle;
    idle = given;
    leave_lock();
}

// Look, once in each process, how many threads there may be.
static void look(void) {
    take_lock();
    if (!processors) {
        const char * dynamic = getenv("OMP_DYNAMIC");
        const char * limit = getenv("OMP_THREAD_LIMIT");
        int given = limit ? atoi(limit) : 0;
        given = given > 0 && given < MAX_THREADS ? given : MAX_THREADS;
        processors = system_processors();
        processors = processors < given ? processors : given;
        bool exactly = dynamic && (dynamic[0] == 'f' || dynamic[0] == 'F');
        most = exactly ? given : processors;
    }
    if (!staying) {
        staying = true;
        system_stay(renew);
    }
    leave_lock();
}

static void region(work * run, void * data, int asked) {
    look();
    int size = asked > 0 ? asked : wanted > 0 ? wanted : processors;
    wanted = 0;
    size = size < most ? size : most;
    struct team * outer = team;
    int outer_number = number;
    struct team * ours = size > 1 && !outer ? take_team(size) : NULL;
    struct team alone = {.size = 1};
    team = ours ? ours : &alone;
    number = 0;
    if (ours) {
        size = ours->workers + 1 < size ? ours->workers + 1 : size;
        uint32_t done = atomic_load_explicit(&ours->done.word, memory_order_relaxed);
        ours->run = run;
        ours->data = data;
        ours->size = size;
        atomic_store_explicit(&ours->inside, (uint32_t) size - 1, memory_order_relaxed);
        for (int i = 0; i < size - 1; i++) {
            open_gate(&ours->worker[i]->go);
        }
        run(data);
        if (size > 1) {
            wait_at(&ours->done, done);
        }
        give_back(ours);
    } else {
        run(data);
    }
    team = outer;
    number = outer_number;
}

// --- OpenMP's own functions --------------------------------------------------------------------------------------------------

int omp_get_max_threads(void) {
    look();
    return processors;
}

int omp_get_num_threads(void) {
    return team ? team->size : 1;
}

int omp_get_thread_num(void) {
    return number;
}

// For the report: the threads of a region at most. MinGW's linker exports everything where nothing is marked; one mark more, and
// ggml_backend_init, which upstream marks for Microsoft's compiler alone, is not exported.
#if defined(_WIN32) && !defined(__MINGW32__)
__declspec(dllexport)
#else
__attribute__((visibility("default")))
#endif
int llama_cpp_thread_limit(void) {
    look();
    return most;
}

// --- what clang calls ----------------------------------------------------------------------------------------------------------

// Compiled with as many parameters as the region shares variables. Those given beyond them do no harm in the calling conventions of
// these platforms; a variadic call would, on Apple's.
typedef void microtask(int *, int *, void *, void *, void *, void *, void *, void *, void *, void *);

struct fork {
    microtask * run;
    void * argument[ARGUMENTS];
};

static void forked(void * given) {
    struct fork * fork = given;
    void ** a = fork->argument;
    int id = number;
    fork->run(&id, &id, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

void __kmpc_fork_call(void * place, int count, microtask * run, ...) {
    struct fork fork = {.run = run};
    (void) place;
    if (count > ARGUMENTS) {
        abort(); // ggml's regions share two variables
    }
    va_list list;
    va_start(list, run);
    for (int i = 0; i < count; i++) {
        fork.argument[i] = va_arg(list, void *);
    }
    va_end(list);
    region(forked, &fork, 0);
}

void __kmpc_push_num_threads(void * place, int id, int count) {
    (void) place;
    (void) id;
    wanted = count;
}

int __kmpc_global_thread_num(void * place) {
    (void) place;
    return number;
}

void __kmpc_barrier(void * place, int id) {
    (void) place;
    (void) id;
    barrier();
}

int __kmpc_single(void * place, int id) {
    (void) place;
    return id == 0;
}

void __kmpc_end_single(void * place, int id) {
    (void) place;
    (void) id;
}

// --- what gcc calls ------------------------------------------------------------------------------------------------------------

void GOMP_parallel(work * run, void * data, unsigned count, unsigned flags) {
    (void) flags;
    region(run, data, (int) count);
}

void GOMP_barrier(void) {
    barrier();
}

bool GOMP_single_start(void) {
    return number == 0;
}
