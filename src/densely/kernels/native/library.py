"""Building the compiled loops and loading them.

They are compiled when first wanted, for the very processor they run on (a wheel could not know it), with the machine's
own C++ compiler, and kept in a cache folder under a name that tells sources, compiler and processor. Where there is no
compiler, or it fails, the operators do the same work.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "source"
#: Products and sums may be fused and reordered as the vectors ask, but a NaN stays a NaN.
FLAGS = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC",
         "-shared", "-fopenmp"]  # fmt: skip
#: GCC, whose OpenMP is the one that PyTorch's own threads run in: two would fight over the cores.
COMPILERS = ("g++", "c++")
TYPES = {torch.float32: "float", torch.bfloat16: "bfloat16"}


def usable(x: torch.Tensor) -> bool:
    """Whether the compiled loops can take such maps, here and now; builds them if need be."""
    return x.device.type == "cpu" and x.dtype in TYPES and why_not(x.dtype) is None


def why_not(dtype: torch.dtype) -> str | None:
    """Why the compiled loops of a dtype cannot be used, or None if they can."""
    if os.environ.get("DENSELY_NATIVE") == "0":
        return "DENSELY_NATIVE=0"
    found = _load(dtype)
    return found if isinstance(found, str) else None


@functools.cache
def slab(dtype: torch.dtype) -> int:
    """How many channels lie together, on this processor."""
    library = _load(dtype)
    assert isinstance(library, ctypes.CDLL)
    library.densely_slab.restype = ctypes.c_long
    return int(library.densely_slab())


def in_use() -> torch.dtype | None:
    """The dtype of loops that have been called: what reads no maps can be done by those of either."""
    return next((dtype for _, dtype in _functions if why_not(dtype) is None), None)


def must_build(dtype: torch.dtype) -> bool:
    """Whether the compiler will have to run when the loops of a dtype are first wanted."""
    compiler = _compiler()
    if os.environ.get("DENSELY_NATIVE") == "0" or sys.platform != "linux" or compiler is None:
        return False
    try:
        return not _library(compiler, dtype).exists()
    except (OSError, subprocess.SubprocessError):
        return False


def room(*shape: int) -> torch.Tensor:
    """Room for floats that the loops write, whatever PyTorch's default dtype and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def addresses(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Where tensors lie, as the loops take a table of them; they must live until the call is over."""
    return torch.tensor([0 if t is None else t.data_ptr() for t in tensors], device="cpu")


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Calls a function of the library: tensors as pointers, None as a null one, numbers as float or long."""
    plain = [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in arguments]
    function = _functions.get((name, dtype))
    if function is None:
        library = _load(dtype)
        assert isinstance(library, ctypes.CDLL)
        function = _functions[name, dtype] = getattr(library, f"densely_{name}")
        function.argtypes = [*map(_kind, arguments), ctypes.c_int]
        function.restype = None
    function(*plain, torch.get_num_threads())


_functions: dict[
    tuple[str, torch.dtype], Any
] = {}  # with the kinds of their arguments, which are those of any first call


def _kind(argument: Any) -> Any:
    if argument is None or isinstance(argument, torch.Tensor):
        return ctypes.c_void_p
    return ctypes.c_float if isinstance(argument, float) else ctypes.c_long


@functools.cache
def _load(dtype: torch.dtype) -> ctypes.CDLL | str:
    """The library for maps of a dtype, or why there is none."""
    if sys.platform != "linux":
        return f"built on Linux only, not on {sys.platform}"
    compiler = _compiler()
    if compiler is None:
        return "g++ was not found"
    try:
        return ctypes.CDLL(str(build(compiler, dtype)))
    except (OSError, subprocess.SubprocessError, Timeout) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("Densely's compiled loops cannot be built, so the slower operators run: %s", said)
        return f"{Path(compiler).name} did not build them: {said}"


def build(compiler: str, dtype: torch.dtype) -> Path:
    """Compiles the library for a dtype unless it lies in the cache.

    Args:
        compiler: GCC's for C++.
        dtype: float32 or bfloat16.

    Returns:
        The library's path.

    Raises:
        OSError: if the compiler cannot be run, or nothing can be written.
        subprocess.SubprocessError: if it fails, with what it said first.
    """
    library = _library(compiler, dtype)
    if library.exists():
        return library
    with FileLock(library.with_suffix(".lock"), timeout=600):
        if library.exists():
            return library
        log.info("Compiling Densely's loops for this processor, once.")
        with tempfile.TemporaryDirectory(dir=library.parent) as aside:
            made = Path(aside) / library.name
            # In a session of its own: Ctrl-C ends this program, and must not look like a compiler that fails.
            done = subprocess.run(
                [compiler, *_flags(dtype), str(SOURCE / "densely.cpp"), "-o", str(made)],
                capture_output=True,
                text=True,
                timeout=600,
                start_new_session=True,
            )
            if done.returncode:
                raise subprocess.SubprocessError(done.stderr.strip() or f"exit code {done.returncode}")
            os.replace(made, library)
    return library


def _compiler() -> str | None:
    """`$CXX`, else the first of the usual ones."""
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), None)


def _flags(dtype: torch.dtype) -> list[str]:
    return [*FLAGS, f"-DMAPS={TYPES[dtype]}"]


def _library(compiler: str, dtype: torch.dtype) -> Path:
    """Where the library is or will be: under a name that changes with anything that its code depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    if b"Free Software Foundation" not in version:
        raise OSError(f"{compiler} is not GCC")
    told = [version, _processor().encode(), " ".join(_flags(dtype)).encode()]
    told += [path.read_bytes() for path in sorted(SOURCE.iterdir())]
    return _folder() / f"{hashlib.sha256(bytes(1).join(told)).hexdigest()[:32]}.so"


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(
            line for line in lines if line.startswith(("vendor", "cpu family", "model", "flags", "Features"))
        )
    except OSError:
        return platform.processor()


def _folder() -> Path:
    """`$DENSELY_KERNELS`, else `~/.cache/densely/kernels`; only this user may write to it: what lies in it is run."""
    folder = Path(os.environ.get("DENSELY_KERNELS") or "~/.cache/densely/kernels").expanduser()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(f"{folder} can be written to by others")
    return folder
