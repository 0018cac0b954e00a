/* The contract between the core and a plugin. C alone: the two may be of different compilers and C++ runtimes, so no exception and no
 * object of C++ may pass from one to the other. */
#pragma once

/* Number of this contract. A plugin of another one is refused before anything of it runs. */
#define LLAMA_CPP_BOUNDARY 1

/* What the core offers a plugin. */
struct llama_cpp_hooks {
    int version; /* LLAMA_CPP_BOUNDARY of the core */
    /* This thread's call of the plugin has failed, and why. gave_up: by GGML_ABORT, so that nothing more may be asked of its devices. */
    void (*failed)(const char * why, int gave_up);
    /* Has it, since the core's function that runs in this thread began? */
    int (*failing)(void);
};

/* Exported by every plugin as `llama_cpp_boundary`, and called before ggml_backend_init. Takes the hooks, if their version is its own,
 * and returns its own version. */
typedef int (*llama_cpp_boundary_t)(const struct llama_cpp_hooks * hooks);
