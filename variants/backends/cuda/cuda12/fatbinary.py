"""NVIDIA's ``fatbinary`` as far as clang calls it, made of the library nvFatbin: the index has the library only.

fatbinary -64 --create OUT --image3=kind=elf,sm=90,file=A.cubin --image3=kind=ptx,sm=90,file=A.ptx …
"""

import ctypes
import pathlib
import sys

#: Machine code in the compression that every driver for CUDA 12 unpacks (LZ4). ggml asks nvcc for `size` (zstd), which drivers
#: before 12.4 refuse.
PACKED = (b"-compress-mode=speed", b"-compress-all")


def main(library: str, arguments: list[str]) -> None:
    """Pack the images into the file after ``--create``; `library`: path of libnvfatbin."""
    nv = ctypes.CDLL(library)
    nv.nvFatbinGetErrorString.restype = ctypes.c_char_p
    handle = ctypes.c_void_p()

    def call(name: str, *values: object) -> None:
        if code := getattr(nv, name)(*values):
            text = nv.nvFatbinGetErrorString(code) or b"unknown error"
            sys.exit(f"fatbinary: {name}: {text.decode()}")

    options = [b"-64", b"-cuda", *PACKED]
    call("nvFatbinCreate", ctypes.byref(handle), (ctypes.c_char_p * len(options))(*options), ctypes.c_size_t(len(options)))
    out = arguments[arguments.index("--create") + 1]
    for argument in arguments:
        if not argument.startswith("--image3="):
            continue
        image = dict(part.split("=", 1) for part in argument.removeprefix("--image3=").split(","))
        content = pathlib.Path(image["file"]).read_bytes()
        arch = image["sm"].encode()
        if image["kind"] == "elf":
            call("nvFatbinAddCubin", handle, content, ctypes.c_size_t(len(content)), arch, None)
        else:
            text = content.rstrip(b"\0") + b"\0"
            call("nvFatbinAddPTX", handle, text, ctypes.c_size_t(len(text)), arch, None, b"")
    size = ctypes.c_size_t()
    call("nvFatbinSize", handle, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    call("nvFatbinGet", handle, buffer)
    pathlib.Path(out).write_bytes(buffer.raw)
    call("nvFatbinDestroy", ctypes.byref(handle))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
