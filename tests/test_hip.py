"""AMD: Triton's own HIP backend compiles, its own launcher launches, into a stand-in for the HIP runtime (hip.py).
What lowlat does there is compared with Triton call by call.  No AMD GPU has run any of it."""

import gc
import itertools
import random
import re

import hypothesis.strategies as st
import pytest
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from triton import knobs
from triton.backends.amd.compiler import HIPBackend
from triton.compiler.compiler import CompiledKernel
from triton.runtime import _allocation, driver

import lowlat
from lowlat import _fast, _torch, _triton
from oracle import Pair, aligned, changed, torch, unaligned

if torch is None:
    pytest.skip("needs torch", allow_module_level=True)

import hip
from generated import GRIDS, OPTIONS, Call, module_of, prepared, specs
from hip import HipPair
from test_generated import storages

pytestmark = pytest.mark.null

GRID = (3, )


@pytest.fixture(scope="module")
def hip_driver():
    return hip.make_driver()


@pytest.fixture(autouse=True)
def on_hip(hip_driver, null_driver_as_found, monkeypatch):
    monkeypatch.delenv("AMDGCN_USE_BUFFER_OPS", raising=False)
    hip.device, hip.streams = 0, {0: 0, 1: 0}
    hip.host_memory.clear(), hip.failures.clear()
    driver.set_active(hip_driver)
    with knobs.amd.scope():
        yield
    driver.set_active(hip_driver)  # CUDA's driver would take a module of HIP's for its own, and unload it
    gc.collect()
    for compiled in gc.get_objects():
        if type(compiled) is CompiledKernel and compiled.metadata.target.backend == "hip":
            compiled.module = None


def one(x, n):
    tl.store(x, n)


def mixed(x, y, n, m, f, flag, BLOCK: tl.constexpr, MODE: tl.constexpr = "plain"):
    if flag:
        tl.store(x, tl.load(y) * f + n + m + BLOCK)


def pointer(x):
    tl.store(x, 1.0)


def half(x, h: tl.float16):
    tl.store(x, h)


# ---- launches -------------------------------------------------------------------------------------------------------


def test_launches():
    pair, x, y = HipPair(mixed), aligned(), unaligned()
    for arguments in ((3, 32, 0.5, True), (1, 2**31, float("nan"), False), (-5, 2**63, -0.0, True)):
        launch = pair.fast((2, 3, 4), x, y, *arguments, BLOCK=64).launches[0]
        assert (launch.call, launch.grid, launch.block) == ("hipModuleLaunchKernel", (2, 3, 4), (256, 1, 1))
        assert launch.parameters[0] == x.data_ptr().to_bytes(8, "little")
    assert {plan.route for plan in pair.lowlat.plans} == {"wrapper"}
    pair.fast(lambda meta: [meta["BLOCK"]], y, x, 3, m=16, f=1.5, flag=True, BLOCK=16, MODE="other")
    before = pair.lowlat.exits
    pair.run(x, y, 3, 32, 0.5, True, BLOCK=64, grid=GRID, warmup=False)
    assert pair.lowlat.exits == before


@pytest.mark.parametrize("options, call", [
    ({"num_warps": 8, "num_stages": 1}, "hipModuleLaunchKernel"), ({"waves_per_eu": 2}, "hipModuleLaunchKernel"),
    ({"launch_cooperative_grid": True}, "hipModuleLaunchCooperativeKernel"), ({"num_ctas": 1}, "hipModuleLaunchKernel"),
], ids=repr)
def test_options(options, call):
    assert HipPair(one).fast(GRID, aligned(), 5, **options).launches[0].call == call


def test_clusters():
    """MI300 has none, so a kernel compiled for one block per cluster is told it has two."""
    pair, x = HipPair(one), aligned()
    pair.call(GRID, x, 5)
    for kernel in (pair.triton, pair.lowlat):
        compiled = kernel[GRID](x, 5)
        threads, _, shared = compiled.packed_metadata
        compiled.packed_metadata = threads, 2, shared
    pair.lowlat.forget()
    launch = pair.fast(GRID, x, 5).launches[0]
    assert launch.call == "hipDrvLaunchKernelEx" and launch.grid == (6, 1, 1)
    assert [number for number, _ in launch.attributes] == [4, 2]


@pytest.mark.parametrize("grid", [
    (0, ), (-1, ), (-1, -1, 1), (65536, 65536), (2, 0), (4, 3, 2), [5], (2**31, ), (1.5, ), (), lambda meta: (0, ),
    lambda meta: (-2, ), 7, None
], ids=repr)
def test_grids(grid):
    """HIP's launcher skips the launch where the product is 0, not where it is negative."""
    pair, x = HipPair(one), aligned()
    pair.call(GRID, x, 5)
    for _ in range(2):
        pair.call(grid, x, 5)


def test_half_precision():
    pair = HipPair(half)
    pair.fast(GRID, aligned(), 0.5)
    assert pair.call(GRID, aligned(), 70000.0).error[0] in (OverflowError, SystemError)


def test_device_and_stream():
    """By the driver's getters, each asked once, as Triton asks them."""
    pair, x = HipPair(one), aligned()
    for hip.device, stream in itertools.product((0, 1, 0), (0, 0x5000)):
        hip.streams[hip.device] = stream
        launch = pair.fast(GRID, x, 5).launches[0]
        assert (launch.device, launch.stream) == (hip.device, stream)
        hip.asked.clear()
        pair.call(GRID, x, 5)
        assert hip.asked == ["device", "stream"] * 2
    assert {plan.route for plan in pair.lowlat.plans} == {"wrapper"} and len(pair.lowlat.plans) == 2


@pytest.mark.parametrize("hook", [None, "chain"])
def test_failures(hook):
    """HIP's launcher calls the exit hook with the error already set, which Python complains of: so does lowlat's."""
    if hook is None:
        knobs.runtime.launch_exit_hook = None
    pair, x = HipPair(one), aligned()
    pair.fast(GRID, x, 5)
    for code, grid in itertools.product((1, 98, 719), (GRID, lambda meta: GRID)):
        result = pair.lockstep(lambda kernel: kernel[grid](x, 5),
                               before=lambda: hip.failures.update(hipModuleLaunchKernel=code))
        if hook is None:
            assert result.error == (RuntimeError, f"Triton Error [HIP]:  Code: {code}, Messsage: a HIP error")
        else:
            assert result.error is not None
    pair.fast(GRID, x, 5)


def test_host_memory():
    """lowlat takes the tensor for the device's; what HIP refuses is refused by Triton's launcher."""
    pair, x = HipPair(one), aligned()
    pair.fast(GRID, x, 5)
    hip.host_memory.append((x.data_ptr(), x.nbytes))
    for kernel in (pair.triton, pair.lowlat):
        with pytest.raises(ValueError, match=r"Pointer argument \(at -?\d+\) cannot be accessed from Triton"):
            kernel[GRID](x, 5)  # (from 3.7 on the number is whatever was on the stack)


def test_hooks():
    pair, x, seen = HipPair(one), aligned(), []
    pair.fast(GRID, x, 5)
    knobs.runtime.launch_enter_hook.add(seen.append)
    try:
        pair.leaves("launch hook", GRID, x, 5)
    finally:
        knobs.runtime.launch_enter_hook.remove(seen.append)
    assert len(seen) == 2
    pair.fast(GRID, x, 5)


def test_scratch_memory():
    """No kernel here needs any, so the launchers are told that theirs does."""
    pair, x, memory = HipPair(one), aligned(), aligned()
    pair.call(GRID, x, 5)
    sizes = ["profile_scratch_size"] + ["global_scratch_size"] * (_triton.VERSION >= (3, 8))
    for kernel in (pair.triton, pair.lowlat):
        vars(kernel[GRID](x, 5).run).update(dict.fromkeys(sizes, 48))
    pair.lowlat.forget()
    asked = []

    def allocate(size, alignment, stream):
        asked.append((size, alignment, stream))
        return memory

    triton.set_allocator(allocate)
    _allocation.set_profile_allocator(allocate)
    try:
        pair.call(GRID, x, 5)
        assert len(pair.fast(GRID, x, 5).launches) == 1
    finally:
        triton.set_allocator(_allocation.NullAllocator())
        _allocation.set_profile_allocator(None)
    assert asked == [(144, 1, 0)] * len(asked) and len(asked) == 6 * len(sizes)
    assert [plan.route for plan in pair.lowlat.plans] == ["launcher"]
    if _triton.VERSION >= (3, 8):
        assert "no allocator was set" in pair.call(GRID, x, 5).error[1]
        for kernel in (pair.triton, pair.lowlat):
            kernel.device_caches[0][0][keys(pair)[0]].run.profile_scratch_size = 0
        pair.lowlat.forget()
        asked.clear()
        triton.set_allocator(allocate)
        try:
            pair.call(GRID, x, 5)
            for grid in (GRID, (0, ), (-2, 5), lambda meta: (2, 2)):
                pair.fast(grid, x, 5)
        finally:
            triton.set_allocator(_allocation.NullAllocator())
        assert [size for size, _, _ in asked[2:]] == [144] * 4 + [0] * 4 + [-480] * 4 + [192] * 4
        assert [plan.route for plan in pair.lowlat.plans] == ["wrapper"]


# ---- the key --------------------------------------------------------------------------------------------------------


def keys(pair):
    """The keys of Triton's cache, the same in both kernels."""
    caches = [list(kernel.device_caches[0][0]) for kernel in (pair.triton, pair.lowlat)]
    assert caches[0] == caches[1]
    return caches[0]


def test_storage_size():
    """Another kernel where 32-bit offsets do not reach all of the storage, be the tensor as small as it may."""
    pair = HipPair(pointer)
    for _ in range(2):
        for x in storages():
            pair.fast(GRID, x)
    found = [re.search(r"'(\w*)'\)", key)[1] for key in keys(pair)]
    assert sorted(found) == ["", "D", "D", "DS", "DS"]
    assert len(pair.lowlat.plans) == 5


@pytest.mark.parametrize("rung", _torch.RUNGS)
def test_storage_size_on_every_rung(rung):
    before = _torch.rung
    try:
        _torch.choose(rung)
        pair = HipPair(pointer)
        for x in storages()[1:8]:
            pair.fast(GRID, x)
        for x in (torch.zeros(4).to_sparse(), torch.empty(4, device="meta")):
            for _ in range(2):
                pair.call(GRID, x)
    finally:
        _torch.choose(before)


@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["x"]}, {"do_not_specialize_on_alignment": ["x"]}],
                         ids=str)
@pytest.mark.parametrize("setting", [None, "0"])
def test_what_is_specialised(options, setting, monkeypatch):
    """`S` also without `D`, and neither of them where nothing is specialised."""
    if setting is not None:
        monkeypatch.setenv("AMDGCN_USE_BUFFER_OPS", setting)
    pair, (large, small) = HipPair(one, **options), storages()[:6:5]
    for _ in range(2):
        for x, n in itertools.product((small, small[1:], large, large[1:]), (1, 16, 5)):
            pair.call(GRID, x, n)
    found = {re.search(r"\('\*i8', (\w+|'\w*')\)", key)[1] for key in keys(pair)}
    if "do_not_specialize" in options:
        assert found == {"None"}
    elif options:
        assert found == {"''"} if setting else {"''", "'S'"}
    else:
        assert found == {"'D'", "''"} if setting else {"'DS'", "'S'", "'D'", "''"}
    before = pair.lowlat.exits
    pair.call(GRID, small, 16)
    assert pair.lowlat.exits == before


def test_buffer_ops(monkeypatch):
    """`knobs.amd.use_buffer_ops` is read from the environment for every tensor, unless it was assigned."""
    pair, x = HipPair(pointer), aligned()

    def steps():
        yield monkeypatch.delenv("AMDGCN_USE_BUFFER_OPS", raising=False)
        for setting in ("0", "1", "off", "true", "0", ""):
            yield monkeypatch.setenv("AMDGCN_USE_BUFFER_OPS", setting)
        for assigned in (True, False, True):
            monkeypatch.setattr(knobs, "propagate_env", False)
            knobs.amd.use_buffer_ops = assigned
            yield
        with knobs.amd.scope():
            knobs.amd.use_buffer_ops = False
            yield
        yield
        del knobs.amd.use_buffer_ops
        yield monkeypatch.setenv("AMDGCN_USE_BUFFER_OPS", "1")

    for _ in range(2):
        for _ in steps():
            for _ in range(2):
                pair.call(GRID, x)
    assert sum("'DS'" in key for key in keys(pair)) == sum("'D'" in key for key in keys(pair)) == 1
    before = pair.lowlat.exits
    for _ in steps():
        pair.call(GRID, x)
    assert pair.lowlat.exits == before


@pytest.mark.parametrize("owner, name", [(HIPBackend, "get_tensor_specialization"), (HIPBackend, "is_within_2gb"),
                                         (torch.Tensor, "ptr_range"), (torch.Tensor, "untyped_storage")],
                         ids=lambda it: getattr(it, "__name__", it))
def test_replaced_specialisers(owner, name, monkeypatch):
    pair, x = HipPair(pointer), aligned()
    pair.fast(GRID, x)
    before = getattr(owner, name, None)
    with monkeypatch.context() as patch:
        if owner is HIPBackend:
            patch.setattr(owner, name, staticmethod(lambda *args, **kwargs: before(*args, **kwargs) and ""))
        elif name == "ptr_range":
            patch.setattr(owner, name, lambda tensor: 2**40, raising=False)
        else:
            patch.setattr(owner, name, lambda tensor: torch.UntypedStorage(2**31, device="meta"))
        pair.leaves("patched", GRID, x)
    pair.fast(GRID, x)
    assert len(keys(pair)) == 2


# ---- both drivers in one process ------------------------------------------------------------------------------------


def test_drivers_change(hip_driver):
    """A kernel stays with the backend of its first call on a device: a later driver finds it in the cache."""
    cuda = lowlat.null._make_driver()
    x, large = storages()[7], storages()[1]
    for order in ((cuda, hip_driver), (hip_driver, cuda)):
        pair = Pair(pointer)
        for _ in range(2):
            for active in order:
                driver.set_active(active)
                for tensor in (x, large, x[1:]):
                    results = []
                    for kernel in (pair.triton, pair.lowlat):
                        with hip.record() as on_hip, lowlat.null.record() as on_cuda:
                            compiled = kernel[GRID](tensor)
                        results.append((list(on_cuda), list(on_hip), compiled.hash))
                    assert results[0] == results[1] and len(results[0][0] + results[0][1]) == 1
        assert keys(pair) and ("backend" in pair.lowlat.exits) == (order[0] is hip_driver)


def test_a_driver_of_another_kind():
    class Other(type(driver.active).__mro__[2]):
        get_current_target = is_active = get_active_torch_device = get_benchmarker = map_python_to_cpp_type = None

    driver.set_active(Other())
    assert _fast.current_reason() == "backend"


# ---- generated calls ------------------------------------------------------------------------------------------------


def test_generated_calls():
    totals = {"calls": 0, "native": 0}

    @settings(max_examples=15, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(spec=specs(6), numbers=st.integers(0, 2**32 - 1))
    def alike(spec, numbers):
        pair = HipPair(module_of(spec).generated, **dict(spec.options))
        chooser, calls, launchers = random.Random(numbers), [], {}
        for i in range(40):
            if i < 4:
                calls.append(Call(tuple(chooser.randrange(len(parameter.values)) for parameter in spec.parameters),
                                  chooser.randrange(len(spec.parameters) + 1),
                                  options=chooser.randrange(len(OPTIONS)) if i == 3 else 0))
            call = chooser.choice(calls)
            if i % 3 == 0:
                call = Call(call.values, chooser.randrange(len(spec.parameters) + 1), chooser.randrange(8),
                            chooser.random() < 0.5, call.options, chooser.randrange(len(GRIDS)), chooser.randrange(7))
            before = pair.lowlat.exits
            pair.lockstep(prepared(spec, call, launchers))
            totals["calls"] += 1
            totals["native"] += not changed(before, pair.lowlat.exits)

    alike()
    print(totals)
    assert totals["native"] > totals["calls"] / 5
