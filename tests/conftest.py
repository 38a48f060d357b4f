"""Where there is no GPU the tests run on the null driver: real Triton, real compiler, real launch path.

Where there is no torch, those that need a tensor are skipped.
"""

import gc
import inspect
import os

import pytest

os.environ.setdefault("LOWLAT_GRAPH_AFTER", "1")  # the second launch of a plan can already be by graph

HIDDEN = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
if HIDDEN:
    # torch built with CUDA would load the GPU's driver on import.
    from lowlat import null

    null.activate(force=True)

import oracle  # noqa: E402

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is unset
GPU = not HIDDEN and oracle.torch is not None and oracle.torch.cuda.is_available()


def pytest_addoption(parser):
    parser.addoption("--long", type=int, default=0, metavar="CALLS", help="how many generated calls to make")
    parser.addoption("--seed", type=int, default=0, help="the first seed of a long run")


def pytest_collection_finish():
    # Many tests collect garbage to see what goes; torch's and Triton's hundred thousands of objects are not garbage.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        for value in vars(module).values():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                oracle.pointers(value)
    for item in items:
        if item.get_closest_marker("torch") and oracle.torch is None:
            item.add_marker(pytest.mark.skip(reason="needs torch"))
        if item.get_closest_marker("gpu") and not GPU:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
        if item.get_closest_marker("null") and GPU:
            item.add_marker(pytest.mark.skip(reason="runs on the null driver, in a process of its own"))


def pytest_configure():
    if not GPU:
        from lowlat import null

        null.activate()


@pytest.fixture(autouse=True)
def null_driver_as_found():
    """Device 0, its default stream, nothing failing or captured, the null driver active; no hooks left behind."""
    from triton import knobs
    from triton.runtime import driver

    before = None if GPU else driver.active
    with knobs.runtime.scope(), knobs.compilation.scope():
        yield
    if not GPU:
        from lowlat import null

        driver.set_active(before)
        null.set_device(0)
        null.set_stream(0, 0)
        null.set_stream(0, 1)
        null.fail("", 0, 0)
        null.clear_memory()
        null.clear_capturing()
        null.linger(0)
