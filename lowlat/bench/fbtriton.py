"""Meta's fork of Triton (fbtriton on PyPI), asked batch by batch by `peers.py` over a pipe.

    PYTHON fbtriton.py [NULL_LIBCUDA]

It replaces `triton`, so it has an environment of its own, with torch; this file is run there by its path and knows
nothing of lowlat but the kernels beside it and, where there is no GPU, the null driver's library.
"""

import ctypes
import importlib
import json
import os
import sys
import time
from itertools import repeat
from typing import Any

# Its C cache and its C dispatcher, which are off by default in the wheel.
os.environ.update(TRITON_ENABLE_C_CACHE="1", TRITON_USE_C_DISPATCHER="1", TRITON_AUTOTUNE_USE_C_CACHE="1")


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def use_null_driver(library: str) -> Any:
    """Load it as this process's libcuda.so.1 and give Triton a driver that asks nobody else."""
    os.environ["TRITON_LIBCUDA_PATH"] = os.path.dirname(library)
    lib = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    lib.lowlat_null_launches.restype = ctypes.c_uint64
    lib.lowlat_null_set_device(0)

    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver

    class NullDriver(CudaDriver):
        def __init__(self) -> None:
            super().__init__()
            self.get_current_device = lambda: 0
            self.get_current_stream = lambda device: 0
            self.get_device_capability = lambda device=None: (9, 0)

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

    driver.set_active(NullDriver())
    return lib


def main(library: str = "") -> None:
    lib = use_null_driver(library) if library else None  # before torch loads a libcuda.so.1
    import torch
    import triton
    from triton.runtime import jit

    kernels = importlib.import_module("kernels")  # beside this file
    where, clock = ("cpu", time.thread_time_ns) if lib else ("cuda", time.perf_counter_ns)
    stand_ins = [torch.zeros(512, dtype=torch.int32, device=where) for _ in range(5)]
    names = {
        "x": torch.zeros(1024, dtype=torch.float32, device=where),
        "empty_like": torch.empty_like,
        **{f"p{i}": tensor for i, tensor in enumerate(stand_ins)},
    }
    functions = {"x * 2": kernels.double, "0 params": kernels.no_parameters, "19 params": kernels.parameters_19}
    launched = dict.fromkeys(functions, 0)
    loops: dict[str, Any] = {}
    if getattr(triton.jit(kernels.no_parameters), "c_cache", False):
        # The bridge, which reads tensors in C++, is in the wheel as source alone.
        bridge = "with" if getattr(jit, "_torch_bridge_loaded", False) else "without"
        say({"note": f"{triton.__version__}, C cache and dispatcher on, {bridge} its torch bridge"})
    else:
        say({"note": f"{triton.__version__} has no C cache: not fbtriton"})

    for line in sys.stdin:
        call, column, count = json.loads(line)
        if call is None:
            if lib is None:
                torch.cuda.synchronize()
                launched["19 params"] = int(stand_ins[0][0])
            say({"launches": launched[column]})
            continue
        if column not in loops:
            own = {"k": triton.jit(functions[column]), **names}
            parameters = ", ".join(f"{name}={name}" for name in own)
            exec(f"def loop(times, {parameters}):\n    for item in times:\n        {call}\n", own)
            loops[column] = own["loop"]
        loop, before = loops[column], lib.lowlat_null_launches() if lib else 0
        if lib is None:
            torch.cuda.synchronize()
        start = clock()
        loop(repeat(None, count))
        nanoseconds = clock() - start
        launched[column] += lib.lowlat_null_launches() - before if lib else count
        say({"nanoseconds": nanoseconds})


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise
