"""One small graph (MUL_MAT, ADD) on a device, by ggml's C interface, compared with the CPU; the CPU's with Python's own numbers."""

from __future__ import annotations

import array
import contextlib
import ctypes
import random
from typing import Any, Callable

_INNER, _ROWS, _COLUMNS = 256, 64, 16
_F32, _SUCCESS, _CPU = 0, 0, 0  # enum ggml_type, ggml_status, ggml_backend_dev_type
#: Largest difference, as a part of the largest number. GPUs may multiply F32 as TF32 or F16 (11 bits).
TOLERANCE_GPU, TOLERANCE_CPU = 1e-2, 1e-4


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def difference(state: Any, device: int) -> dict[str, Any]:
    """Compute on the device with this index in ggml's list. `difference` (a part of the largest number) and `tolerance`.

    Raises:
        RuntimeError: the device fails; the message says in which step.
    """
    libraries = _libraries(state)
    numbers = random.Random(7)
    left, right, more = (
        [numbers.uniform(-1.0, 1.0) for _ in range(count)] for count in (_INNER * _ROWS, _INNER * _COLUMNS, _ROWS * _COLUMNS)
    )
    mine = _compute(libraries, device, left, right, more)
    handle = _function(libraries, "ggml_backend_dev_get", ctypes.c_void_p, [ctypes.c_size_t])
    kind = _function(libraries, "ggml_backend_dev_type", ctypes.c_int, [ctypes.c_void_p])
    count = _function(libraries, "ggml_backend_dev_count", ctypes.c_size_t, [])()
    if kind(handle(device)) == _CPU:
        expected, tolerance = _expected(left, right, more), TOLERANCE_CPU
    else:
        cpu = next(index for index in range(count) if kind(handle(index)) == _CPU)
        expected, tolerance = _compute(libraries, cpu, left, right, more), TOLERANCE_GPU
    largest = max(map(abs, expected))
    off = max(abs(a - b) if a == a else largest for a, b in zip(mine, expected)) / largest  # a != a: not a number
    return {"difference": off, "tolerance": tolerance}


def _expected(left: list[float], right: list[float], more: list[float]) -> list[float]:
    """What ggml_add(ggml_mul_mat(left, right), more) is: (columns, rows), rows innermost."""
    values = []
    for column in range(_COLUMNS):
        vector = right[column * _INNER : (column + 1) * _INNER]
        for row in range(_ROWS):
            product = sum(a * b for a, b in zip(left[row * _INNER : (row + 1) * _INNER], vector))
            values.append(product + more[column * _ROWS + row])
    return values


def _compute(libraries: list[Any], device: int, left: list[float], right: list[float], more: list[float]) -> list[float]:
    pointer, size = ctypes.c_void_p, ctypes.c_size_t

    def call(name: str, restype: Any, argtypes: list[Any]) -> Callable[..., Any]:
        return _function(libraries, name, restype, argtypes)

    def made(what: str, value: Any) -> Any:
        if not value:
            raise RuntimeError(f"{what} failed")
        return value

    # Nothing is freed: this process ends soon, and a backend that gave up could not even free its memory (docs/design.md).
    handle = call("ggml_backend_dev_get", pointer, [size])(device)
    backend = made("making the device", call("ggml_backend_dev_init", pointer, [pointer, ctypes.c_char_p])(handle, None))
    context = made("ggml_init", call("ggml_init", pointer, [_InitParams])(_InitParams(4 << 20, None, True)))
    new = call("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64])
    tensors = [new(context, _F32, _INNER, _ROWS), new(context, _F32, _INNER, _COLUMNS), new(context, _F32, _ROWS, _COLUMNS)]
    two = [pointer, pointer, pointer]
    product = call("ggml_mul_mat", pointer, two)(context, tensors[0], tensors[1])
    result = call("ggml_add", pointer, two)(context, product, tensors[2])
    graph = call("ggml_new_graph", pointer, [pointer])(context)
    call("ggml_build_forward_expand", None, [pointer, pointer])(graph, result)
    allocate = call("ggml_backend_alloc_ctx_tensors", pointer, [pointer, pointer])
    made("allocating memory", allocate(context, backend))
    put = call("ggml_backend_tensor_set", None, [pointer, ctypes.c_char_p, size, size])
    for tensor, values in zip(tensors, (left, right, more)):
        data = array.array("f", values).tobytes()
        put(tensor, data, 0, len(data))
    status = call("ggml_backend_graph_compute", ctypes.c_int, [pointer, pointer])(backend, graph)
    if status != _SUCCESS:
        raise RuntimeError(f"computing a graph failed (status {status})")
    out = ctypes.create_string_buffer(_ROWS * _COLUMNS * 4)
    call("ggml_backend_tensor_get", None, [pointer, ctypes.c_char_p, size, size])(result, out, 0, len(out))
    return list(array.array("f", out.raw))


def _libraries(state: Any) -> list[Any]:
    """libggml, behind which glibc and musl find libggml-base, and that one by itself for systems that do not look there."""
    base = [path for path in state.lib_dir.iterdir() if "ggml-base" in path.name]
    return [state.ggml, *(ctypes.CDLL(str(path)) for path in base[:1])]


def _function(libraries: list[Any], name: str, restype: Any, argtypes: list[Any]) -> Callable[..., Any]:
    for library in libraries:
        with contextlib.suppress(AttributeError):
            function = library[name]  # of its own: nobody else sees these types
            function.restype, function.argtypes = restype, argtypes
            return function  # type: ignore[no-any-return]
    raise RuntimeError(f"this core has no {name}")
