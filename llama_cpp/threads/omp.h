// The part of OpenMP's omp.h that ggml calls. threads.c serves it, in each CPU plugin for itself.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

int omp_get_max_threads(void);
int omp_get_num_threads(void);
int omp_get_thread_num(void);

#ifdef __cplusplus
}
#endif
