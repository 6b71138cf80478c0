"""Waits, allocates and fetches before, during and after a capture; prints what the stub counted: JSON."""

import ctypes
import json

driver = ctypes.CDLL("libcudart.so.13")
memory, graph = ctypes.c_void_p(), ctypes.c_void_p()
here = ctypes.create_string_buffer(8)


def meddle() -> int:
    driver.cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(8))
    driver.cudaMemcpyAsync(here, memory, ctypes.c_size_t(8), 2, None)
    driver.cudaStreamSynchronize(None)
    driver.cudaFree(memory)
    return ctypes.c_int.in_dll(driver, "stub_forbidden").value


counted = {"before": meddle()}
driver.cudaStreamBeginCapture(None, 0)
counted["during"] = meddle()
driver.cudaStreamEndCapture(None, ctypes.byref(graph))
counted["after"] = meddle()
print(json.dumps(counted))
