"""The decorator and the class: a drop-in for triton.jit, in every environment."""

import copy
import inspect
import os
import subprocess
import sys

import pytest
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction as TritonJITFunction

import lowlat
from oracle import Pair, aligned, changed, torch

GRID = (3, )


def kernel(x, n, BLOCK: tl.constexpr = 16):
    """Stores n."""
    tl.store(x, n)


def run_python(code, **environment):
    """A fresh interpreter: what depends on the state at import."""
    folder = os.path.dirname(__file__)
    package = os.path.dirname(os.path.dirname(lowlat.__file__))
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    warnings = ("-W", "error", "-W", "ignore:AnnAssign.__init__ missing:DeprecationWarning")  # as in pyproject.toml
    return subprocess.run([sys.executable, *warnings, "-c", code], capture_output=True, text=True, cwd=folder,
                          env={**os.environ, "PYTHONPATH": path, **environment})


def test_it_is_tritons_class():
    ours, theirs = lowlat.jit(kernel), triton.jit(kernel)
    assert isinstance(ours, TritonJITFunction) and type(ours).__name__ == "JITFunction"
    assert inspect.signature(lowlat.JITFunction.__init__).parameters.keys() == inspect.signature(
        TritonJITFunction.__init__).parameters.keys()
    for name in ("arg_names", "constexprs", "src", "cache_key", "__name__", "__doc__", "__module__", "module", "debug",
                 "noinline", "pre_run_hooks", "used_global_vals", "do_not_specialize", "signature"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert [(p.name, p.is_constexpr, p.default) for p in ours.params] == [(p.name, p.is_constexpr, p.default)
                                                                          for p in theirs.params]
    assert repr(ours) == repr(theirs) and hash(ours) == hash(theirs)
    assert ours.device_caches == {} and type(ours.device_caches) is type(theirs.device_caches)
    ours.something = 1  # helion and others keep attributes on kernels
    assert vars(ours).setdefault("something", 2) == 1


def test_bare_and_with_options():
    assert isinstance(lowlat.jit(kernel), lowlat.JITFunction)
    options = {"version": "1", "do_not_specialize": ["n"], "do_not_specialize_on_alignment": ["x"], "debug": True,
               "noinline": True, "repr": lambda specialization: "renamed", "launch_metadata": lambda *args: {}}
    ours, theirs = lowlat.jit(**options)(kernel), triton.jit(**options)(kernel)
    for name in ("version", "do_not_specialize", "do_not_specialize_on_alignment", "debug", "noinline",
                 "launch_metadata", "_repr"):
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("call", [lambda jit: jit(unknown=1), lambda jit: jit(kernel, unknown=1), lambda jit: jit(5),
                                  lambda jit: jit(kernel, "positional")])
def test_wrong_options(call):
    errors = []
    for jit in (triton.jit, lowlat.jit):
        with pytest.raises(Exception) as raised:
            call(jit)
        errors.append((type(raised.value), str(raised.value)))
    assert errors[0] == errors[1]


def test_calling_a_kernel_directly():
    for jit in (triton.jit, lowlat.jit):
        with pytest.raises(RuntimeError, match="Cannot call @triton.jit'd outside of the scope of a kernel"):
            jit(kernel)(1)


@pytest.mark.null
def test_copies():
    ours, x = lowlat.jit(kernel), aligned()
    compiled = ours[GRID](x, 5)
    duplicate = copy.copy(ours)
    assert duplicate.device_caches is ours.device_caches and duplicate.arg_names == ours.arg_names
    assert duplicate[GRID](x, 5) is compiled
    assert (duplicate.exits, ours.exits) == ({"first call": 1}, {"first call": 1})


@lowlat.jit
def helper(n):
    return n * 2


@triton.jit
def triton_helper(n):
    return n + 1


def calls_helpers(x, n):
    tl.store(x, helper(n) + triton_helper(n))


@pytest.mark.null
def test_kernels_call_each_other():
    Pair(calls_helpers).fast(GRID, aligned(), 5)


def takes_a_kernel(x, n, FUNCTION: tl.constexpr):
    tl.store(x, FUNCTION(n))


@pytest.mark.null
def test_a_kernel_as_constexpr():
    pair = Pair(takes_a_kernel)
    pair.fast(GRID, aligned(), 5, helper)
    seen = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **kwargs: seen.append(kwargs["repr"])
    if triton.__version__ >= "3.7":  # 3.6 cannot serialise any kernel passed as a constexpr
        pair.call(GRID, aligned(), 16, helper)
        assert len(seen) == 2


@pytest.mark.null
def test_run_set_on_the_instance_calls_the_one_before():
    """Found by the generated calls: it called itself, until the stack was full."""
    pair, x, seen = Pair(kernel), aligned(), []
    pair.fast(GRID, x, 5)
    for function in (pair.triton, pair.lowlat):

        def run(*args, original=function.run, **kwargs):
            seen.append(args)
            return original(*args, **kwargs)

        function.run = run
    pair.leaves("run replaced", GRID, x, 5)
    assert len(seen) == 2
    exits = pair.lowlat.exits
    pair.run(x, 5, grid=GRID, warmup=False)
    assert pair.lowlat.exits == exits and len(seen) == 4  # the original launches natively
    for function in (pair.triton, pair.lowlat):
        del function.run
    pair.fast(GRID, x, 5)


@pytest.mark.null
def test_doubled_keywords(monkeypatch):
    """Found by the generated calls: Python names the function that is called, which must be Triton's."""

    def with_a_grid(x, grid):
        pass

    pair, x = Pair(with_a_grid), aligned()
    pair.fast(GRID, x, 5)
    for _ in range(2):
        assert pair.call(GRID, x, grid=5).error[0] is TypeError
        assert pair.lockstep(lambda kernel: kernel.warmup(x, 5, grid=GRID, warmup=False)).error[0] is TypeError
        original = TritonJITFunction.run
        monkeypatch.setattr(TritonJITFunction, "run", lambda *args, **kwargs: original(*args, **kwargs))


@pytest.mark.null
def test_run_set_on_the_instance():
    ours, x = lowlat.jit(kernel), aligned()
    ours[GRID](x, 5)
    ours.run = lambda *args, **kwargs: ("mine", args, kwargs)
    assert ours[GRID](x, 5) == ("mine", (x, 5), {"grid": GRID, "warmup": False})
    del ours.run
    before = ours.exits
    ours[GRID](x, 5)
    assert ours.exits == before


@pytest.mark.null
def test_subclass():
    class Mine(lowlat.JITFunction):

        def run(self, *args, **kwargs):
            self.ran = True
            return super().run(*args, **kwargs)

    mine, x = Mine(kernel), aligned()
    assert hasattr(mine[GRID](x, 5), "asm") and mine.ran
    assert changed({}, mine.exits)["subclass"] >= 1


@pytest.mark.torch
def test_interpreter():
    result = run_python("import triton.language as tl, torch, lowlat\nfrom test_jit import kernel\n"
                        "k = lowlat.jit(kernel)\nprint(type(k).__name__)\n"
                        "assert type(lowlat.jit(debug=True)(kernel)).__name__ == 'InterpretedFunction'\n"
                        "x = torch.zeros(4, dtype=torch.int32)\nk[(1,)](x, 7)\nassert x[0] == 7",
                        TRITON_INTERPRET="1")
    assert (result.returncode, result.stdout) == (0, "InterpretedFunction\n"), result.stderr


def test_switched_off():
    result = run_python("import triton, lowlat\nfrom test_jit import kernel\n"
                        "assert type(lowlat.jit(kernel)) is triton.runtime.jit.JITFunction\n"
                        "assert type(lowlat.jit(debug=True)(kernel)) is triton.runtime.jit.JITFunction", LOWLAT="0")
    assert result.returncode == 0, result.stderr


@pytest.mark.null
def test_no_gpu_and_no_null_driver():
    """Triton's own error, on either path, and nothing broken by it."""
    code = ("import triton, {module}\nfrom oracle import aligned\nfrom test_jit import kernel\n"
            "k = {module}.jit(kernel)\nfor _ in range(2):\n    try:\n        k[(1,)](aligned(), 5)\n"
            "    except Exception as error:\n        print(type(error).__name__, error)")
    texts = [run_python(code.format(module=module)).stdout for module in ("triton", "lowlat")]
    assert texts[0] == texts[1] and "0 active drivers" in texts[0]


def test_unknown_triton():
    result = run_python(
        "import warnings, triton\ntriton.__version__ = '3.99.0'\n"
        "with warnings.catch_warnings(record=True) as caught:\n    warnings.simplefilter('always')\n    import lowlat\n"
        "assert len(caught) == 1 and 'Triton 3.99.0 is not between 3.6 and 3.9' in str(caught[0].message), caught\n"
        "from oracle import aligned, pointers, torch\nfrom test_jit import kernel\n"
        "k = lowlat.jit(pointers(kernel))\nassert isinstance(k, lowlat.JITFunction)\n"
        "from lowlat import null\nif torch is None or not torch.cuda.is_available():\n    null.activate()\n"
        "    for _ in range(3): k[(1,)](aligned(), 5)\n"
        "    assert null.launches() == 3 and k.exits == {'unknown triton': 3}")
    assert result.returncode == 0, result.stderr


@pytest.mark.torch
def test_torch_imported_later():
    result = run_python("import lowlat, sys\nfrom lowlat import _torch\n"
                        "if 'torch' not in sys.modules:\n    assert not _torch.attached\nimport torch\n"
                        "from test_jit import kernel\nfrom lowlat import null\n"
                        "if not torch.cuda.is_available():\n    null.activate()\n"
                        "    k = lowlat.jit(kernel)\n    for _ in range(3): k[(1,)](torch.zeros(4), 5)\n"
                        "    assert _torch.rung == 'shim' and sum(k.exits.values()) == 1, k.exits")
    assert result.returncode == 0, result.stderr


@pytest.mark.torch
@pytest.mark.null
def test_dynamo_sees_a_kernel():
    """torch.compile and wrap_triton take the subclass for the kernel it is."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
    from torch.library import wrap_triton

    ours = lowlat.jit(kernel)
    assert wrap_triton(ours) is not None
    assert kernel_side_table.get_kernel(kernel_side_table.add_kernel(ours)) is ours


@pytest.mark.torch
@pytest.mark.null
def test_scratch_memory():
    """A kernel that needs scratch memory: asked of the allocator per call."""

    def allocate(size, alignment, stream):
        sizes.append((size, alignment))
        return torch.empty(size, dtype=torch.int8)

    def stage(jit):
        return jit(makes_a_descriptor)

    sizes = []
    kernels = [stage(triton.jit), stage(lowlat.jit)]
    x = aligned(4096)
    for ours in kernels:
        with pytest.raises(RuntimeError, match="no allocator was set"):
            ours[GRID](x, 64, 64, BLOCK=16)
    triton.set_allocator(allocate)
    try:
        for ours in kernels:
            for _ in range(3):
                ours[GRID](x, 64, 64, BLOCK=16)
    finally:
        from triton.runtime import _allocation

        triton.set_allocator(_allocation.NullAllocator())
    assert len(sizes) == 6 and len(set(sizes)) == 1
    assert [plan.route for plan in kernels[1].plans] == ["wrapper"]


def makes_a_descriptor(x, M, N, BLOCK: tl.constexpr):
    descriptor = tl.make_tensor_descriptor(x, [M, N], [N, 1], [BLOCK, BLOCK])
    descriptor.store([0, 0], descriptor.load([0, 0]) + 1.0)
