// Which devices may compute: those that have computed one small graph, with the right numbers. Kept in the real libllama for the
// libraries of the guard.
#pragma once

#include "ggml-backend.h"
#include "llama.h"
#include "system.hpp"

extern "C" {
// Null where this device has computed, else why it is left out; good until the process ends. A device is asked once a process. With `ask` false
// it is not asked, and null where nothing is known. The CPU, accelerators beside it, and servers over RPC are trusted unasked.
GUARD_EXPORT const char * llama_cpp_trust_error(ggml_backend_dev_t device, bool ask);
// Asks the devices that a model with these parameters would use, and no others, and takes out those that are not trusted. Returns why the
// model is refused, where the user named such a device (`devices`, `main_gpu`), else null.
GUARD_EXPORT const char * llama_cpp_trust_model(llama_model_params * params);
// The same for a projector: `device` is the one that the user named, or null; it becomes the one to use, or null for the CPU.
GUARD_EXPORT const char * llama_cpp_trust_projector(ggml_backend_dev_t * device);
}
