"""The little of the CUDA driver that running an engine takes, through ctypes.

libcuda comes with the driver itself, so it is there wherever a GPU is, at the right version, on PCs and
Jetsons alike; the Python packages for CUDA must match the toolkit and have changed names and layout.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p, create_string_buffer
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Tuple

from targets.base import TargetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """One visible NVIDIA GPU."""

    name: str
    capability: str  # e.g. "8.6"


def gpus() -> Tuple[Gpu, ...]:
    """The visible NVIDIA GPUs in CUDA's order; none without a driver."""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return ()
    count = c_int()
    _check(driver, driver.cuDeviceGetCount(byref(count)), "cuDeviceGetCount")
    return tuple(_describe(driver, index) for index in range(count.value))


class Stream:
    """A stream in the first GPU's primary context, which runtimes share. Owns the buffers it hands out."""

    def __init__(self) -> None:
        driver = _driver()
        if driver is None:
            raise TargetError("no NVIDIA driver (libcuda.so.1) on this machine")
        self._driver = driver
        self._call("cuInit", 0)
        self._device, context, stream = c_int(), c_void_p(), c_void_p()
        self._call("cuDeviceGet", byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        self._stream = stream
        self._buffers: list[c_uint64] = []

    @property
    def handle(self) -> int:
        """The stream as an integer, as TensorRT takes it."""
        return int(self._stream.value or 0)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU and return their address; freed by `close`."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", byref(address), c_size_t(max(size, 1)))
        self._buffers.append(address)
        return address.value

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous array to the GPU, in stream order."""
        self._call("cuMemcpyHtoDAsync_v2", c_uint64(address), c_void_p(array.ctypes.data), array.nbytes, self._stream)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Copy from the GPU into a contiguous array, in stream order; valid after `synchronize`."""
        self._call("cuMemcpyDtoHAsync_v2", c_void_p(array.ctypes.data), c_uint64(address), array.nbytes, self._stream)

    def synchronize(self) -> None:
        """Wait for everything queued."""
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free the buffers, the stream and the hold on the context."""
        for address in self._buffers:
            self._call("cuMemFree_v2", address)
        self._buffers.clear()
        self._call("cuStreamDestroy_v2", self._stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _call(self, name: str, *args: Any) -> None:
        _check(self._driver, getattr(self._driver, name)(*args), name)


def _driver() -> Optional[Any]:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _describe(driver: Any, index: int) -> Gpu:
    device, major, minor, name = c_int(), c_int(), c_int(), create_string_buffer(256)
    _check(driver, driver.cuDeviceGet(byref(device), index), "cuDeviceGet")
    _check(driver, driver.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    for value, attribute in ((major, CAPABILITY_MAJOR), (minor, CAPABILITY_MINOR)):
        _check(driver, driver.cuDeviceGetAttribute(byref(value), attribute, device), "cuDeviceGetAttribute")
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def _check(driver: Any, code: int, call: str) -> None:
    if code:
        text = c_char_p()
        driver.cuGetErrorString(code, byref(text))
        raise TargetError(f"CUDA: {call} failed: {(text.value or b'unknown error').decode()} (code {code})")
