"""Where models compute: on the CPU, or on a GPU that was found and can be opened."""

import contextlib
import ctypes
import io
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from narthex_server.errors import InvalidRequest, NotOnDevice

_log = logging.getLogger(__name__)
_WANTED = re.compile(r"auto|cpu|cuda(?::(\d{1,4}))?")
_DRIVER, _PROVIDER = (
    ("nvcuda.dll", "onnxruntime_providers_cuda.dll")
    if sys.platform == "win32"
    else ("libcuda.so.1", "libonnxruntime_providers_cuda.so")
)
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""Attributes in the driver's interface (CUdevice_attribute)."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The machine's own processor."""

    def __str__(self) -> str:
        return "cpu"


@dataclass(frozen=True, slots=True)
class Cuda:
    """An NVIDIA GPU; `capability` is the version of what its processors can do, (8, 0) for an A100."""

    index: int
    capability: tuple[int, int]

    @property
    def bfloat16(self) -> bool:
        """Whether it multiplies and attends in bfloat16."""
        return self.capability >= (8, 0)

    def __str__(self) -> str:
        return f"cuda:{self.index}"


Device = Cpu | Cuda


def choose(wanted: str) -> Device:
    """The device for `cpu`, `cuda`, `cuda:N`, or `auto`, which is the first GPU if it can be used and else the CPU.

    Errors: NotOnDevice where a GPU is asked for and something is missing; InvalidRequest for another text.
    """
    if (asked := _WANTED.fullmatch(wanted)) is None:
        raise InvalidRequest(f"there is no device {wanted!r}; choose auto, cpu, cuda or cuda:N")
    if wanted == "cpu":
        return Cpu()
    try:
        return find_cuda(int(asked[1] or 0))
    except NotOnDevice as missing:
        if wanted != "auto":
            raise
        _log.debug("models run on the CPU: %s", missing.message)
        return Cpu()


def find_cuda(index: int) -> Cuda:
    """The GPU of this number. Errors: NotOnDevice, which says what is missing: provider, driver, GPU or libraries."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise NotOnDevice("this ONNX Runtime cannot use GPUs; install onnxruntime-gpu, on Linux or Windows")
    capability = _capability(index)
    _load_libraries()
    return Cuda(index, capability)


def _capability(index: int) -> tuple[int, int]:
    """Ask the driver for a GPU's compute capability."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise NotOnDevice(f"there is no NVIDIA driver: {_DRIVER} cannot be loaded; install the driver") from error
    if code := driver.cuInit(0):
        raise NotOnDevice(f"the NVIDIA driver finds no GPU that it can use (cuInit returned {code})")
    count, device, major, minor = (ctypes.c_int() for _ in range(4))
    driver.cuDeviceGetCount(ctypes.byref(count))
    if index >= count.value:
        raise NotOnDevice(f"there is no GPU {index}; the NVIDIA driver has {count.value}")
    code = driver.cuDeviceGet(ctypes.byref(device), index)
    for number, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
        code = code or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    if code:
        raise NotOnDevice(f"the NVIDIA driver cannot tell what GPU {index} is (it returned {code})")
    return major.value, minor.value


def _load_libraries() -> None:
    """Load what the provider links to, from packages or the system.

    ONNX Runtime itself would only write to its log and go on on the CPU; the linker names the library.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find, which may be elsewhere
        ort.preload_dlls()
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / _PROVIDER))
    except OSError as error:
        raise NotOnDevice(f"CUDA libraries are missing ({error}); pip install 'narthex[cuda]'") from error
