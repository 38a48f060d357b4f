"""autotune and heuristics on the null driver: whatever is done to a tuner, lowlat's does what Triton's does."""

import copy
import gc
import inspect
import itertools
import os
import subprocess
import sys
import threading
import weakref

import pytest
import triton
import triton.language as tl
from triton import knobs
from triton.runtime.autotuner import Autotuner as TritonAutotuner
from triton.runtime.autotuner import Heuristics as TritonHeuristics
from triton.runtime.jit import KernelInterface

import lowlat
from lowlat import _torch, null
from oracle import Pair, aligned, changed, outcome

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.null
VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])


def add(x, y, n, m=7, BLOCK: tl.constexpr = 16, MODE: tl.constexpr = "plain"):
    tl.store(x, tl.load(y) + n + m + BLOCK)


def tune_me(x, y, n, key, BLOCK: tl.constexpr, STEP: tl.constexpr = 1):
    tl.store(x, BLOCK + STEP)


GRID = (3, )


def configs(count=3):
    """The first has Triton's defaults, the others differ in everything else."""
    blocks = [triton.Config({"BLOCK": 16})]
    blocks += [triton.Config({"BLOCK": 16 << i}, num_warps=2, num_stages=2 + i) for i in range(1, count)]
    return blocks


def fastest(*numbers):
    """A `do_bench` under which, tuning after tuning, these configs win; it launches each config once."""
    winners = itertools.cycle(numbers)
    state = {"number": 0, "winner": None, "tunings": 0}

    def do_bench(call, quantiles):
        if state["number"] == 0:
            state["winner"] = next(winners)
            state["tunings"] += 1
        call()
        milliseconds = 1.0 if state["number"] == state["winner"] else 2.0
        state["number"] = (state["number"] + 1) % state.get("configs", 3)
        return [milliseconds] * len(quantiles)

    do_bench.state = state
    return do_bench


class Both:
    """One decorated function under either library.  Every call through it is compared: result, error, launches, and
    what the tuner says of itself afterwards."""

    def __init__(self, build):
        self.triton, self.lowlat = build(triton), build(lowlat)

    @classmethod
    def tuned(cls, function=tune_me, configs=configs, key=("key", ), winners=(1, 2, 0), **options):
        """Autotuned; `options` maps a name to a function that makes the option, for each library anew."""

        def build(library):
            made = {name: make() for name, make in options.items()}
            made.setdefault("do_bench", fastest(*winners))
            return library.autotune(configs=configs(), key=list(key), **made)(library.jit(function))

        return cls(build)

    def each(self, action):
        """The same to both."""
        return [action(self.triton), action(self.lowlat)]

    def call(self, grid, /, *args, **kwargs):
        return self.same(lambda tuner: tuner[grid](*args, **kwargs))

    def run(self, *args, **kwargs):
        return self.same(lambda tuner: tuner.run(*args, **kwargs))

    def same(self, call):
        expected, actual = self.each(lambda tuner: outcome(lambda: call(tuner)))
        Pair.compare(expected, actual)
        assert state_of(self.lowlat) == state_of(self.triton)
        return actual

    def fast(self, grid, /, *args, **kwargs):
        """Call twice; the second call must have been native in every layer."""
        self.call(grid, *args, **kwargs)
        before = exits_of(self.lowlat)
        result = self.call(grid, *args, **kwargs)
        assert exits_of(self.lowlat) == before, [changed(b, a) for b, a in zip(before, exits_of(self.lowlat))]
        return result

    def leaves(self, reason, grid, /, *args, **kwargs):
        """The call must go to Triton's Autotuner or Heuristics for `reason`, and still be the same."""
        before = self.lowlat.exits
        result = self.call(grid, *args, **kwargs)
        assert changed(before, self.lowlat.exits) == {reason: 1}
        return result

    @property
    def tunings(self):
        counts = self.each(lambda tuner: tuner.do_bench.state["tunings"])
        assert counts[0] == counts[1]
        return counts[0]


def layers(outer):
    while outer is not None:
        yield outer
        outer = outer.fn if isinstance(outer, (TritonAutotuner, TritonHeuristics)) else None


def exits_of(outer):
    return [layer.exits for layer in layers(outer) if hasattr(layer, "exits")]


def state_of(outer):
    """What can be read off tuners after a call."""
    missing = object()
    state = []
    for tuner in layers(outer):
        if isinstance(tuner, TritonAutotuner):
            best, nargs = getattr(tuner, "best_config", missing), getattr(tuner, "nargs", missing)
            cache = {key: str(config) for key, config in tuner.cache.items()} if isinstance(tuner.cache, dict) else None
            timings = getattr(tuner, "configs_timings", None)
            state.append((None if best is missing else str(best), None if nargs is missing else named(nargs), cache,
                          nargs is missing, timings and {str(config): t for config, t in timings.items()}))
    return state


def named(arguments):
    return None if arguments is None else {name: id(value) for name, value in arguments.items()}


def key_types(tuner):
    """1, True and 1.0 are one key to a dict: which of them was tuned first?"""
    return [[(type(part), part) for part in key] for key in tuner.cache]


# ---- a tuned call ---------------------------------------------------------------------------------------------------


def test_tuned_calls_are_native():
    both, x, y = Both.tuned(), aligned(), aligned()
    for key in (1, 2, 3):
        both.fast(GRID, x, y, 5, key)
    both.fast(GRID, x, y, n=5, key=1)
    both.fast(GRID, x, key=2, n=5, y=y)
    both.fast([2, 3], x, y, 5, 3, STEP=4)
    assert both.tunings == 3
    assert both.lowlat.exits == {"not tuned yet": 3}
    assert [str(config) for config in both.lowlat.cache.values()] == [str(configs()[i]) for i in (1, 2, 0)]


def test_keys_alternate():
    both, x, y = Both.tuned(), aligned(), aligned()
    for key in range(10):
        both.call(GRID, x, y, 5, key)
    before = exits_of(both.lowlat)
    for key in [*range(10), *range(0, 10, 3), 0, 1, 0, 1, 9]:
        both.call(GRID, x, y, 5, key)
    assert exits_of(both.lowlat) == before


@pytest.mark.parametrize("grid, frames", [(GRID, 0), ([3], 0), (lambda meta: (meta["BLOCK"], ), 1)])
def test_no_python_runs(grid, frames):
    """No Python function is entered, but for a grid callable."""
    x, y = aligned(), aligned()
    tuned = lowlat.autotune(configs=configs(), key=["key"])(lowlat.jit(tune_me))
    stacked = lowlat.autotune(configs=configs(), key=["key"])(lowlat.heuristics({})(lowlat.jit(tune_me)))
    for tuner in (tuned, stacked):
        for _ in range(3):
            tuner[grid](x, y, 5, key=3)
            tuner.run(x, y, 5, key=3, grid=grid, warmup=False)
        entered = []

        def profile(frame, event, argument, entered=entered):
            if event == "call":
                entered.append(frame.f_code.co_name)

        sys.setprofile(profile)
        try:
            tuner[grid](x, y, 5, key=3)
            tuner.run(x, y, 5, key=3, grid=grid, warmup=False)
        finally:
            sys.setprofile(None)
        assert len(entered) == 2 * frames, entered


class Text(str):
    pass


VALUES = [1, True, 1.0, 0, False, 0.0, -0.0, None, "a", "".join(["a", ""]), "b", 2**40, -5, 2**63, 2**64, torch.float32,
          torch.float16, tl.float32, (1, 2), Text("a"), tl.constexpr(4)]


def takes_anything(x, key: tl.constexpr, BLOCK: tl.constexpr):
    tl.store(x, BLOCK)


@pytest.mark.parametrize("order", [VALUES, VALUES[::-1]], ids=["forwards", "backwards"])
def test_key_values(order):
    """1, True and 1.0 are one key to Triton, and whichever came first was tuned for."""
    both, x = Both.tuned(takes_anything), aligned()
    for _ in range(3):
        for key in order:
            both.call(GRID, x, key)
    assert key_types(both.lowlat) == key_types(both.triton)
    known = [value for value in order if not isinstance(value, (tuple, Text, tl.constexpr)) and value != 2**64]
    before = exits_of(both.lowlat)
    for key in known:
        both.call(GRID, x, key)
    assert exits_of(both.lowlat) == before


def test_nan_is_a_new_key_each_time():
    both, x = Both.tuned(takes_anything), aligned()
    nan = float("nan")
    for key in (nan, nan, float("nan"), nan, float("nan")):
        both.call(GRID, x, key)
    assert both.tunings == 3


def test_unhashable_keys():
    both, x = Both.tuned(takes_anything), aligned()
    both.fast(GRID, x, 5)
    for _ in range(2):
        assert both.call(GRID, x, [5]).error[0] is TypeError
    both.fast(GRID, x, 5)


class Number:
    """A key that is equal to 5, and says when it is asked."""

    def __init__(self, asked):
        self.asked = asked

    def __eq__(self, other):
        self.asked.append(other)
        return other == 5

    def __hash__(self):
        return hash(5)


def test_keys_of_other_types_are_tritons_to_compare():
    asked = []
    both, x = Both.tuned(takes_anything), aligned()
    both.fast(GRID, x, 5)
    before = both.lowlat.exits
    both.call(GRID, x, Number(asked))
    assert asked and changed(before, both.lowlat.exits) == {"key": 1} and both.tunings == 1


def test_keys_that_a_call_has_not():
    """Absent ones are skipped, so that two keys of the same values may be one."""
    both, x = Both.tuned(add, key=("n", "m", "MODE")), aligned()
    both.fast(GRID, x, x, 5)
    both.fast(GRID, x, x, 5, MODE="a")
    both.fast(GRID, x, x, 5, 3)
    both.fast(GRID, x, x, n=5, m=3, MODE="a")
    both.fast(GRID, x, x, 5, 3, MODE="b")
    assert both.tunings == 5


def test_dtypes_are_part_of_the_key_in_the_order_of_the_call():
    both = Both.tuned(key=())
    a, b = aligned(), aligned(dtype=torch.float16)
    both.fast(GRID, a, b, 5, 0)
    both.fast(GRID, b, a, 5, 0)
    both.fast(GRID, a, a, 5, 0)
    assert both.tunings == 3
    both.fast(GRID, key=0, n=5, y=b, x=a)  # as b, a by position
    both.fast(GRID, key=0, n=5, x=a, y=b)
    both.fast(GRID, a, key=0, n=5, y=b)
    assert both.tunings == 3
    both.fast(GRID, a, 7, b, 0)  # the same key: two tensors, wherever they are
    both.fast(GRID, a, b, 7, 0)
    both.fast(GRID, torch.nn.Parameter(a), b, 5, 0)
    assert both.tunings == 3


class Wrapped:
    """Anything that has data_ptr and dtype is a pointer to Triton, and `dtype` may be anything."""

    def __init__(self, tensor):
        self.tensor, self.dtype = tensor, tensor.dtype

    def data_ptr(self):
        return self.tensor.data_ptr()


def test_other_arguments_with_a_dtype():
    numpy = pytest.importorskip("numpy")
    both, x = Both.tuned(key=()), aligned()
    both.fast(GRID, x, x, 5, 0)
    for argument in (Wrapped(aligned(dtype=torch.int64)), numpy.float64(2.5)):
        for _ in range(2):
            both.leaves("argument", GRID, x, argument, 5, 0)


def test_dtype_read_by_python(monkeypatch):
    """The rungs below the shim: the same keys."""
    monkeypatch.delenv("LOWLAT_TENSORS", raising=False)
    try:
        for rung in ("dlpack", "python"):
            _torch.choose(rung)
            both = Both.tuned(key=())
            for dtype in (torch.float32, torch.float16, torch.bool, torch.uint64):
                both.fast(GRID, aligned(), aligned(dtype=dtype), 5, 0)
            assert both.tunings == 4
    finally:
        _torch.choose()


def test_dtype_patched(monkeypatch):
    """Somebody's own `Tensor.dtype` is the one that is asked."""
    both, x = Both.tuned(key=()), aligned()
    both.fast(GRID, x, x, 5, 0)
    seen, original = [], torch.Tensor.dtype
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "dtype", property(lambda self: seen.append(1) or original.__get__(self)),
                      raising=False)
        both.leaves("patched", GRID, x, x, 5, 0)
        assert seen
    both.fast(GRID, x, x, 5, 0)


def test_torch_function_mode():
    class Mode(torch.overrides.TorchFunctionMode):

        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    both, x, seen = Both.tuned(), aligned(), []
    both.fast(GRID, x, x, 5, 0)
    with Mode():
        both.leaves("torch function mode", GRID, x, x, 5, 0)
    assert seen
    both.fast(GRID, x, x, 5, 0)


def test_one_config_has_no_cache():
    both, x = Both.tuned(configs=lambda: configs()[1:2]), aligned()
    for key in (1, [1], float("nan")):
        both.call(GRID, x, x, 5, 3, STEP=key) if not isinstance(key, float) else both.fast(GRID, x, x, 5, 3)
    both.fast(GRID, x, x, 5, key=4)
    assert both.tunings == 0 and both.lowlat.cache == {} and both.lowlat.exits.get("not tuned yet") is None
    none = Both.tuned(configs=lambda: [], function=add, key=())
    none.fast(GRID, x, x, 5)
    assert str(none.lowlat.best_config) == str(triton.Config({}, num_warps=4, num_stages=3, num_ctas=1))


def test_defaults_keywords_and_options():
    both, x = Both.tuned(add, key=("n", )), aligned()
    both.fast(GRID, x, x, 5)
    both.fast(GRID, x, x, 5, MODE="other")
    both.fast(GRID, x, x, 5, m=1, launch_pdl=True)
    both.fast(GRID, y=x, x=x, n=2**31, m=1.5)
    both.fast(GRID, **{"x": x, "y": x, "n": 5})
    both.fast(GRID, *(x, x), **{"n": 5})


def named_like_options(x, num_warps: tl.constexpr, num_stages: tl.constexpr, BLOCK: tl.constexpr):
    tl.store(x, num_warps + num_stages + BLOCK)


def test_parameters_named_like_options():
    """They get what the config says of the options."""
    both, x = Both.tuned(named_like_options, key=("num_warps", )), aligned()
    for _ in range(2):
        both.fast(GRID, x)
    assert both.call(GRID, x, 4).error[0] is TypeError
    assert both.call(GRID, x, num_stages=4).error[0] is TypeError


# ---- the tuner's state ----------------------------------------------------------------------------------------------


def test_cache_cleared_replaced_and_seeded():
    both, x = Both.tuned(), aligned()
    key = (5, "torch.float32", "torch.float32")
    both.fast(GRID, x, x, 1, 5)
    assert list(both.lowlat.cache) == [key]

    both.each(lambda tuner: tuner.cache.clear())
    both.leaves("not tuned yet", GRID, x, x, 1, 5)
    assert both.tunings == 2
    for number in (0, 2, 1):  # an entry replaced
        both.each(lambda tuner, number=number: tuner.cache.update({key: tuner.configs[number]}))
        assert str(both.fast(GRID, x, x, 1, 5) and both.lowlat.best_config) == str(configs()[number])
    both.each(lambda tuner: setattr(tuner, "cache", {key: tuner.configs[0]}))  # another dict
    both.fast(GRID, x, x, 1, 5)
    assert str(both.lowlat.best_config) == str(configs()[0])
    both.each(lambda tuner: tuner.cache.pop(key))
    both.leaves("not tuned yet", GRID, x, x, 1, 5)
    foreign = triton.Config({"BLOCK": 256}, num_warps=1)  # none of the tuner's
    both.each(lambda tuner: tuner.cache.update({key: foreign, (6, *key[1:]): foreign}))
    both.fast(GRID, x, x, 1, 5)
    both.fast(GRID, x, x, 1, 6)
    assert both.lowlat.best_config is foreign and both.tunings == 3


def test_a_seeded_cache_needs_no_tuning():
    both, x = Both.tuned(), aligned()
    both.each(lambda tuner: tuner.cache.update({(5, "torch.float32", "torch.float32"): tuner.configs[2]}))
    both.fast(GRID, x, x, 1, 5)
    assert both.tunings == 0 and both.lowlat.exits == {}


class Recorder(dict):
    """A cache of the user's own."""

    def __getitem__(self, key):
        self.__dict__.setdefault("asked", []).append(key)
        return super().__getitem__(key)


def test_a_cache_of_another_class():
    both, x = Both.tuned(), aligned()
    both.each(lambda tuner: setattr(tuner, "cache", Recorder()))
    for _ in range(3):
        both.call(GRID, x, x, 1, 5)
    assert both.lowlat.exits == {"tuner": 3}
    assert both.lowlat.cache.asked == both.triton.cache.asked
    both.each(lambda tuner: setattr(tuner, "cache", dict(tuner.cache)))
    both.fast(GRID, x, x, 1, 5)


def test_configs_reassigned():
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: setattr(tuner, "configs", configs()[2:]))
    both.fast(GRID, x, x, 1, 5)
    both.fast(GRID, x, x, 1, 6)
    assert str(both.lowlat.best_config) == str(configs()[2])
    both.each(lambda tuner: tuner.configs.insert(0, triton.Config({"BLOCK": 128})))  # in place
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: tuner.configs.pop())
    both.fast(GRID, x, x, 1, 5)
    assert both.lowlat.best_config.kwargs == {"BLOCK": 128}
    both.each(lambda tuner: tuner.configs.clear())
    assert both.leaves("tuner", GRID, x, x, 1, 5).error[0] is IndexError
    both.each(lambda tuner: setattr(tuner, "configs", tuple(configs())))
    both.leaves("tuner", GRID, x, x, 1, 5)


@pytest.mark.parametrize("one", [False, True], ids=["tuned", "single"])
def test_a_config_changed_after_tuning(one):
    both, x = Both.tuned(configs=lambda: configs()[:1] if one else configs(), winners=(0, )), aligned()
    both.fast(GRID, x, x, 1, 5)

    def change(action):
        both.each(lambda tuner: action(tuner.configs[0]))
        both.fast(GRID, x, x, 1, 5)

    change(lambda config: setattr(config, "num_warps", 8))
    change(lambda config: setattr(config, "num_stages", 5))
    change(lambda config: setattr(config, "maxnreg", 64))
    change(lambda config: setattr(config, "maxnreg", None))
    change(lambda config: setattr(config, "num_ctas", 2))
    change(lambda config: setattr(config, "num_warps", None))
    change(lambda config: config.kwargs.update(BLOCK=64))
    change(lambda config: config.kwargs.update(STEP=3))
    change(lambda config: config.kwargs.pop("STEP"))
    change(lambda config: setattr(config, "kwargs", {"BLOCK": 32}))
    change(lambda config: config.__dict__.update(num_warps=2))
    change(lambda config: setattr(config, "__dict__", {**vars(config), "num_warps": 1}))
    change(lambda config: setattr(config, "something", 1))
    assert both.fast(GRID, x, x, 1, 5).result.metadata.num_warps == 1


def test_a_config_that_is_not_plain():
    class Mine(triton.Config):

        def all_kwargs(self):
            return {**super().all_kwargs(), "num_warps": 8}

    class Kwargs(dict):
        pass

    for config in (Mine({"BLOCK": 16}), triton.Config(Kwargs(BLOCK=16))):
        both, x = Both.tuned(configs=lambda config=config: [config]), aligned()
        for _ in range(2):
            both.leaves("config", GRID, x, x, 1, 5)


def test_all_kwargs_patched(monkeypatch):
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    original = triton.Config.all_kwargs
    with monkeypatch.context() as patch:
        patch.setattr(triton.Config, "all_kwargs", lambda self: {**original(self), "num_warps": 16})
        assert both.leaves("patched", GRID, x, x, 1, 5).result.metadata.num_warps == 16
    both.fast(GRID, x, x, 1, 5)


def test_keys_changed():
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: tuner.keys.append("n"))
    both.fast(GRID, x, x, 1, 5)
    both.fast(GRID, x, x, 2, 5)
    both.each(lambda tuner: tuner.keys.clear())
    both.fast(GRID, x, x, 2, 5)
    both.each(lambda tuner: setattr(tuner, "keys", ("key", "nobody")))
    both.fast(GRID, x, x, 2, 5)
    for keys in ({"key": 1}, None, [["n"]], ["n", 5], "n"):
        both.each(lambda tuner, keys=keys: setattr(tuner, "keys", keys))
        for _ in range(2):
            both.leaves("tuner", GRID, x, x, 2, 5)
    both.each(lambda tuner: setattr(tuner, "keys", ["key"]))
    both.fast(GRID, x, x, 2, 5)


def test_arg_names_changed():
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: setattr(tuner, "arg_names", ["y", "x", "n", "key"]))
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: tuner.arg_names.insert(2, tuner.arg_names.pop()))  # n for key
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: tuner.arg_names.pop())
    both.leaves("binding", GRID, x, x, 1, 5)
    both.each(lambda tuner: setattr(tuner, "arg_names", iter("xy")))
    both.leaves("tuner", GRID, x, x, 1, 5)
    both.each(lambda tuner: setattr(tuner, "arg_names", None))
    for _ in range(2):
        assert both.leaves("tuner", GRID, x, x, 1, 5).error[0] is TypeError


def test_fn_replaced():
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    before = both.lowlat.fn
    both.each(lambda tuner: setattr(tuner, "fn", type(tuner.fn)(tune_me, do_not_specialize=["n"])))
    assert both.lowlat.fn is not before
    both.fast(GRID, x, x, 1, 5)


def test_before_the_first_call():
    both = Both.tuned()
    for name in ("best_config", "nargs", "configs_timings", "bench_time"):
        texts = []
        for tuner in (both.triton, both.lowlat):
            with pytest.raises(AttributeError) as raised:
                getattr(tuner, name)
            texts.append(str(raised.value))
        assert texts[0] == texts[1]
    both.each(lambda tuner: setattr(tuner, "best_config", "mine"))
    assert both.lowlat.best_config == "mine"


def test_two_devices():
    both, x = Both.tuned(), aligned()
    for device in (0, 1, 0, 1):
        null.set_device(device)
        assert both.call(GRID, x, x, 1, 5).launches[-1].device == device
    before = exits_of(both.lowlat)
    for device in (0, 1):
        null.set_device(device)
        both.call(GRID, x, x, 1, 5)
    assert exits_of(both.lowlat) == before and both.tunings == 1


# ---- what hooks see -------------------------------------------------------------------------------------------------


def recorded(seen, name):
    """A hook that notes the arguments it gets, and what the tuner says of its own."""

    def hook(arguments, *rest, **more):
        seen.append((name, list(arguments.items()), rest, more))

    return hook


def test_pre_hook_of_a_config():
    """On every launch, with all arguments; `nargs` are the positional ones."""
    seen, x = {}, aligned()

    def build(library):
        calls = seen.setdefault(library, [])

        def hook(arguments):
            calls.append((list(arguments.items()), tuner.nargs))

        tuner = library.autotune([triton.Config({"BLOCK": 16}, pre_hook=hook), *configs()[1:]], key=["key"],
                                 do_bench=fastest(0, 1))(library.jit(tune_me))
        return tuner

    both = Both(build)
    for key in (5, 5, 6, 6):
        both.call(GRID, x, x, 1, key=key, STEP=3)
    both.run(x, x, n=1, key=5, grid=GRID, warmup=False)
    assert seen[lowlat] == seen[triton] and len(seen[lowlat]) == 5
    assert both.lowlat.exits == {"not tuned yet": 2, "pre-hook": 2}
    both.each(lambda tuner: setattr(tuner.configs[0], "pre_hook", None))
    both.fast(GRID, x, x, 1, 5)
    assert len(seen[lowlat]) == 5


def test_pre_hook_that_raises_or_changes_its_config():
    def build(library):

        def hook(arguments):
            if arguments["n"] == 2:
                raise LookupError("no")
            tuner.configs[0].kwargs["BLOCK"] *= 2

        tuner = library.autotune([triton.Config({"BLOCK": 16}, pre_hook=hook)], key=[])(library.jit(tune_me))
        return tuner

    both, x = Both(build), aligned()
    both.call(GRID, x, x, 1, 5)
    both.call(GRID, x, x, 1, 5)
    assert both.lowlat.configs[0].kwargs == {"BLOCK": 64}
    assert both.call(GRID, x, x, 2, 5).error == (LookupError, "no")


def test_hooks_of_the_tuner():
    """reset_to_zero, restore_value, pre_hook and post_hook act while tuning, and never after."""
    seen, x = {}, aligned()

    def build(library):
        calls = seen.setdefault(library, [])
        return library.autotune(configs(), key=["key"], do_bench=fastest(1), pre_hook=recorded(calls, "before"),
                                post_hook=recorded(calls, "after"))(library.jit(tune_me))

    both = Both(build)
    both.call(GRID, x, x, 1, 5)
    both.fast(GRID, x, x, 1, 5)
    assert seen[lowlat] == seen[triton]
    assert [(call[0], call[3]) for call in seen[lowlat]] == [
        ("before", {}), ("after", {"exception": None})] * 3 + [("before", {"reset_only": True})]


def test_reset_to_zero_and_restore_value():
    def build(library):
        return library.autotune(configs(), key=["key"], do_bench=fastest(1), reset_to_zero=["x"],
                                restore_value=["y"])(library.jit(tune_me))

    both = Both(build)
    for tuner in (both.triton, both.lowlat):
        for _ in range(2):
            x, y = torch.ones(64), torch.ones(64)
            tuner[GRID](x, y, 1, 5)
            assert (x[0].item(), y[0].item()) == (0.0 if _ == 0 else 1.0, 1.0)
        assert tuner.restore_copies == {}
    assert both.lowlat.reset_to_zero == ["x"] and both.lowlat.restore_value == ["y"]


def test_pruning():
    seen = {}

    def build(library):
        calls = seen.setdefault(library, [])

        def early(choices, named_arguments, **kwargs):
            calls.append((len(choices), list(named_arguments.items()), kwargs))
            return choices[1:]

        def model(**kwargs):
            calls.append(sorted(kwargs))
            return -kwargs["BLOCK"]

        return library.autotune(configs(4), key=["key"], prune_configs_by={
            "early_config_prune": early, "perf_model": model, "top_k": 2})(library.jit(tune_me))

    both, x = Both(build), aligned()
    both.call(GRID, x, x, 1, 5, STEP=2)
    both.fast(GRID, x, x, 1, 5, STEP=2)
    assert seen[lowlat] == seen[triton] and str(both.lowlat.best_config) == str(configs(4)[3])
    both.each(lambda tuner: setattr(tuner, "early_config_prune", lambda *args, **kwargs: []))
    assert "No valid autotuner configs" in both.call(GRID, x, x, 1, 6).error[1]
    assert both.lowlat.nargs is not None


def test_callable_grid():
    """It sees what the config added, and may ask the tuner for its arguments."""
    seen, x = {}, aligned()

    def build(library):
        tuner = library.autotune(configs(), key=["key"], do_bench=fastest(1))(library.jit(tune_me))
        tuner.grid = lambda meta: seen.setdefault(library, []).append((list(meta.items()), tuner.nargs)) or (
            meta["BLOCK"], meta["key"])
        return tuner

    both = Both(build)
    for _ in range(3):
        result = both.same(lambda tuner: tuner[tuner.grid](x, x, 1, key=5))
    assert seen[lowlat] == seen[triton] and result.launches[0].grid == (32, 5, 1)
    assert both.lowlat.exits == {"not tuned yet": 1}


def test_a_grid_callable_that_launches_the_tuner_again():
    both, x = Both.tuned(), aligned()
    both.call((4, ), x, x, 1, 5)
    both.call((4, ), x, x, 1, 6)
    result = both.same(lambda tuner: tuner[lambda meta: tuner[(meta["key"], )](x, x, 2, 6) and (9, )](x, x, 1, 5))
    assert [launch.grid[0] for launch in result.launches] == [5, 9]


def test_printing(capsys, monkeypatch):
    monkeypatch.setattr(knobs.autotuning, "print", True)
    printed, x = [], aligned()
    for library in (triton, lowlat):
        tuner = library.autotune(configs(), key=["key"], do_bench=fastest(1))(library.jit(tune_me))
        tuner[GRID](x, x, 1, 5)
        tuner[GRID](x, x, 1, 5)
        lines = capsys.readouterr().out.splitlines()
        printed.append([line for line in lines if not line.startswith("finished after")])
    assert printed[0] == printed[1] and len(printed[0]) == 6


@pytest.mark.skipif(VERSION < (3, 8), reason="Triton 3.8 has the listener first")
def test_listener(monkeypatch):
    seen = {}
    for library in (triton, lowlat):
        monkeypatch.setattr(knobs.autotuning, "listener", lambda library=library, **event: seen.setdefault(
            library, []).append((type(event["fn"]).__name__, event["key"], str(event["best_config"]),
                                 list(event["configs_timings"].values()), event["cache_hit"])))
        tuner = library.autotune(configs(), key=["key"], do_bench=fastest(1))(library.jit(tune_me))
        for key in (5, 5, 6):
            tuner[GRID](aligned(), aligned(), 1, key)
    assert seen[lowlat] == seen[triton] and len(seen[lowlat]) == 2


@pytest.mark.parametrize("writer, reader", [(triton, lowlat), (lowlat, triton)], ids=["triton's", "lowlat's"])
def test_disk_cache(writer, reader, tmp_path, monkeypatch):
    """What one writes the other reads, and need not tune."""
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    tuners = [library.autotune(configs(), key=["key"], do_bench=fastest(2), cache_results=True)(library.jit(tune_me))
              for library in (writer, reader, reader)]
    x = aligned()
    for tuner in tuners:
        tuner[GRID](x, x, 1, 5)
        tuner[GRID](x, x, 1, 5)
        assert str(tuner.best_config) == str(configs()[2])
        assert len(tuner.configs_timings) == 3
    assert [tuner.do_bench.state["tunings"] for tuner in tuners] == [1, 0, 0]


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_arguments_given_twice():
    both, x = Both.tuned(winners=(1, )), aligned()
    for key in (50, 51):
        assert both.call(GRID, x, x, 1, key, BLOCK=16).error[0] is ValueError  # while tuning
        both.each(lambda tuner: tuner.cache.update({(6, "torch.float32", "torch.float32"): tuner.configs[0]}))
        text = both.call(GRID, x, x, 1, 6, BLOCK=16).error[1]
        assert "triton.runtime.jit.JITFunction.run() got multiple values for keyword argument 'BLOCK'" == text
        assert "num_warps" in both.call(GRID, x, x, 1, 7, num_warps=8).error[1]
        assert "run() got multiple values" in both.call(GRID, x, x, 1, 5, grid=GRID).error[1]
        assert both.call(GRID, x, x, 1, 5, warmup=True).error[0] is TypeError
        assert both.call(GRID, x, x, 1, 5, self=1).error[0] is TypeError
        assert both.call(GRID, x, x, 1, 5, x=x).error[0] is TypeError
        assert both.lowlat.nargs is not None
        both.fast(GRID, x, x, 1, 5)
        assert both.lowlat.nargs is None
    one = Both.tuned(configs=lambda: configs()[:1])
    assert "num_stages" in one.leaves("binding", GRID, x, x, 1, 6, num_stages=8).error[1]
    stacked = Both(lambda library: library.autotune(configs()[:1], key=[])(library.heuristics({})(
        library.jit(tune_me))))
    assert "Heuristics.run() got multiple" in stacked.call(GRID, x, x, 1, 6, num_stages=8).error[1]
    again = Both(lambda library: library.autotune(configs()[:1], key=[])(library.autotune([], key=[])(
        library.jit(tune_me))))
    assert again.call(GRID, x, x, 1, 6).error[0] is TypeError  # num_warps from both


@pytest.mark.parametrize("args, kwargs", [((), {}), ((1, ), {}), ((1, 2, 3, 4, 5, 6, 7), {}), ((1, 2, 3), {"foo": 1})],
                         ids=repr)
@pytest.mark.parametrize("one", [False, True], ids=["tuned", "single"])
def test_arguments_that_do_not_bind(args, kwargs, one):
    both, x = Both.tuned(configs=lambda: configs()[:1] if one else configs()), aligned()
    both.fast(GRID, x, x, 1, 5)
    args = (x, x, *args[2:]) if len(args) > 1 else args
    for _ in range(2):
        assert both.call(GRID, *args, **kwargs).error is not None
    both.fast(GRID, x, x, 1, 5)


def test_failed_launches():
    """The driver's error, and the arguments left on the tuner; the next call goes on as if nothing had been."""
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    outcomes = []
    for tuner in (both.triton, both.lowlat):
        null.fail("cuLaunchKernelEx", 700)
        outcomes.append(outcome(lambda tuner=tuner: tuner[GRID](x, x, 1, 5)))
    Pair.compare(*outcomes)
    assert outcomes[1].error[0] is RuntimeError
    assert named(both.lowlat.nargs) == named(both.triton.nargs) == named({"x": x, "y": x, "n": 1, "key": 5})
    both.fast(GRID, x, x, 1, 5)
    assert both.lowlat.nargs is None


def only_small(x, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK < 100)
    tl.store(x, BLOCK)


def test_configs_that_fail_while_tuning():
    """A config that does not compile never wins."""

    def build(library):
        return library.autotune([triton.Config({"BLOCK": size}) for size in (256, 32, 64)], key=[],
                                do_bench=lambda call, quantiles: call() or [1.0] * 3)(library.jit(only_small))

    both, x = Both(build), aligned()
    both.fast(GRID, x)
    assert both.lowlat.best_config.kwargs == {"BLOCK": 32}


def test_wrong_options():
    for call in (lambda library: library.autotune(), lambda library: library.autotune([], []),
                 lambda library: library.autotune(configs=[], key=[], unknown=1), lambda library: library.heuristics(),
                 lambda library: library.heuristics({}, 5),
                 lambda library: library.autotune([], ["nobody"], reset_to_zero=["z"])(library.jit(tune_me)),
                 lambda library: library.autotune([], [])(tune_me), lambda library: library.heuristics({})(tune_me)):
        errors = []
        for library in (triton, lowlat):
            try:
                errors.append(type(call(library)).__name__)
            except Exception as error:
                errors.append((type(error), str(error)))
        assert errors[0] == errors[1]
    unknown = outcome(lambda: lowlat.autotune([], ["nobody"])(lowlat.jit(tune_me))).error
    assert unknown is None if VERSION < (3, 9) else unknown[0] is ValueError


# ---- the run door ---------------------------------------------------------------------------------------------------


def test_run():
    both, x = Both.tuned(), aligned()
    both.run(x, x, 1, 5, grid=GRID, warmup=False)
    both.run(x, x, 1, 5, grid=GRID, warmup=False)
    before = exits_of(both.lowlat)
    both.run(x, x, 1, 5, grid=GRID, warmup=False)
    both.run(x, x, grid=lambda meta: (meta["BLOCK"], ), warmup=False, n=1, key=5)
    both.run(warmup=False, key=5, n=1, y=x, x=x, grid=[2])
    both.call(GRID, x, x, 1, 5)
    assert exits_of(both.lowlat) == before
    launched = null.launches()
    assert hasattr(both.run(x, x, 1, 5, grid=GRID, warmup=True).result, "asm")
    assert null.launches() == launched and exits_of(both.lowlat) == before
    for wrong in ({}, {"grid": GRID}, {"warmup": False}):
        assert both.run(x, x, 1, 5, **wrong).error[0] is TypeError


def test_warmup():
    """All configs are compiled, none launched, and the list of kernels comes back."""
    both, x = Both.tuned(), aligned()
    launched = null.launches()
    for arguments in ((x, x, 1, 5), (torch.float32, torch.float32, 1, 5)):
        results = both.each(lambda tuner, arguments=arguments: tuner.warmup(*arguments, grid=GRID))
        assert [[k.metadata.num_warps for k in kernels] for kernels in results] == [[4, 2, 2]] * 2
        assert both.lowlat.nargs is None
    assert null.launches() == launched


# ---- heuristics -----------------------------------------------------------------------------------------------------


def both_with(values, function=add, **options):
    """Heuristics whose functions note what they got: (both, seen by library)."""
    seen = {}

    def build(library):
        calls = seen.setdefault(library, [])

        def noting(name, heuristic):

            def function(arguments):
                calls.append((name, type(arguments), list(arguments.items())))
                return heuristic(arguments)

            return function

        return library.heuristics({name: noting(name, value) for name, value in values.items()})(
            library.jit(function, **options))

    return Both(build), seen


def test_heuristics():
    both, seen = both_with({"BLOCK": lambda args: 16 if args["n"] < 10 else 64,
                            "MODE": lambda args: str(args["BLOCK"])})
    x, y = aligned(), aligned(dtype=torch.float16)
    for n in (5, 50, 5, 1, 2**31, 7, 7):
        both.fast(GRID, x, y, n)
        both.fast((2, 3), x, y=y, n=n, m=3)
        both.fast(lambda meta: (meta["BLOCK"], ), x, y, n)
        both.run(x, y, n, grid=GRID, warmup=False)
        both.run(x, warmup=False, y=y, grid=[4], n=n, num_warps=2)
    assert seen[lowlat] == seen[triton]
    assert both.lowlat.exits == {}


def test_each_heuristic_gets_its_own_dict():
    """What one does to its dict, or keeps of it, is nothing to the next."""
    kept = []

    def empties(arguments):
        arguments.clear()
        return 16

    def changes(arguments):
        arguments["x"] = arguments["n"] = None
        arguments["extra"] = 1
        return "changed"

    def keeps(arguments):
        kept.append(arguments)
        return 3

    for first, second in itertools.permutations((empties, changes, keeps), 2):
        both, seen = both_with({"BLOCK": lambda args, first=first: first(args) and 16,
                                "MODE": lambda args, second=second: str(second(args)),
                                "m": lambda args: args["BLOCK"]})
        for _ in range(3):
            both.fast(GRID, aligned(), aligned(), 5)
        assert len(seen[lowlat]) == len(seen[triton]) == 18
        for ours, theirs in zip(seen[lowlat], seen[triton]):
            assert ours[:2] == theirs[:2] and [name for name, _ in ours[2]] == [name for name, _ in theirs[2]]
    assert all("MODE" not in arguments or arguments["BLOCK"] == 16 for arguments in kept)
    assert all(arguments["n"] == 5 for arguments in kept)


def test_what_heuristics_get_is_not_kept():
    """Their dicts are used again, without tensors, grids and objects of the call before."""

    class Thing:
        pass

    outer = lowlat.heuristics({"BLOCK": lambda args: 16, "MODE": lambda args: "m"})(lowlat.jit(add))
    for count in range(3):
        x, y, z, thing = aligned(), torch.nn.Parameter(aligned()), aligned(), Thing()
        for _ in range(2):
            outer[lambda meta, thing=thing: (1, )](x, y, 5 + count)
            outer.run(z, y, n=5, grid=lambda meta, thing=thing: (1, ), warmup=False)
            with pytest.raises(TypeError):
                outer[GRID](x, y, thing)
        references = [weakref.ref(item) for item in (x, y, z, thing)]
        del x, y, z, thing
        gc.collect()
        assert [reference() for reference in references] == [None] * 4


def test_heuristics_within_heuristics():
    """One that launches through the same heuristics, and threads in them, see their own arguments."""
    results = []

    def build(library):
        seen = []

        def block(arguments):
            seen.append(list(arguments.items()))
            if arguments["n"] == 7:
                results[-1][GRID](arguments["y"], arguments["x"], 8)
            seen.append(list(arguments.items()))
            return 16

        results.append(library.heuristics({"m": lambda args: args["n"], "BLOCK": block, "MODE": lambda args: "m"})(
            library.jit(add)))
        return results[-1], seen

    x, y = aligned(), aligned()
    outcomes = []
    for library in (triton, lowlat):
        outer, seen = build(library)
        for _ in range(3):
            outer[GRID](x, y, 7)
            outer[GRID](x, y, 9)
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1] and len(outcomes[0]) == 18


def test_heuristics_override_and_take_their_place():
    """A name the caller gave keeps its place among the options and gets the heuristic's value."""
    both, seen = both_with({"num_warps": lambda args: 8, "MODE": lambda args: "other",
                            "m": lambda args: args.get("m", 1)})
    x = aligned()
    for kwargs in ({}, {"num_warps": 2}, {"num_warps": 2, "num_stages": 1}, {"num_stages": 1, "num_warps": 2},
                   {"MODE": "mine"}, {"m": 2}):
        assert both.fast(GRID, x, x, 5, **kwargs).result.metadata.num_warps == 8
    assert seen[lowlat] == seen[triton]
    assert list(both.lowlat.fn.device_caches[0][0]) == list(both.triton.fn.device_caches[0][0])


def test_heuristics_that_are_arguments_too():
    both, seen = both_with({"m": lambda args: args.get("m", 1), "grid": lambda args: (7, )})
    x = aligned()
    assert both.leaves("binding", GRID, x, x, 5).launches[0].grid == (7, 1, 1)
    assert both.leaves("binding", GRID, x, x, 5, 6).error[0] is TypeError
    assert both.leaves("binding", GRID, x, x, 5, n=6).error[0] is TypeError
    assert both.leaves("binding", GRID, x, x, 5, grid=(1, )).error[0] is TypeError
    assert both.leaves("binding", GRID, x, x, 5, 6, 7, 8, 9).error[0] is TypeError
    assert seen[lowlat] == seen[triton]


def test_heuristics_that_fail():
    def fails(arguments):
        raise LookupError("none")

    both, seen = both_with({"MODE": lambda args: "m", "BLOCK": fails})
    launched = null.launches()
    for _ in range(2):
        assert both.call(GRID, aligned(), aligned(), 5).error == (LookupError, "none")
    assert null.launches() == launched and seen[lowlat][:2] and len(seen[lowlat]) == len(seen[triton]) == 4
    for value in ([1], object(), float("nan"), tl.constexpr(3)):
        both, _ = both_with({"MODE": lambda args, value=value: value})
        both.call(GRID, aligned(), aligned(), 5)


def test_values_changed():
    x = aligned()
    both = Both(lambda library: library.heuristics({"BLOCK": lambda args: 16})(library.jit(add)))
    both.fast(GRID, x, x, 5)
    both.each(lambda outer: outer.values.update(BLOCK=lambda args: 32))
    both.fast(GRID, x, x, 5)
    both.each(lambda outer: outer.values.update(MODE=lambda args: "other"))
    both.fast(GRID, x, x, 5)
    both.each(lambda outer: outer.values.pop("BLOCK"))
    both.fast(GRID, x, x, 5)
    both.each(lambda outer: setattr(outer, "values", {"BLOCK": lambda args: 128}))
    both.fast(GRID, x, x, 5)
    both.each(lambda outer: outer.values.clear())
    both.fast(GRID, x, x, 5)
    both.each(lambda outer: setattr(outer, "values", Recorder(BLOCK=lambda args: 8)))
    both.leaves("tuner", GRID, x, x, 5)
    both.each(lambda outer: setattr(outer, "values", None))
    assert both.call(GRID, x, x, 5).error[0] is AttributeError


@pytest.mark.parametrize("names", [("BLOCK", "MODE"), ("MODE", "BLOCK")], ids=["first", "last"])
def test_heuristics_that_add_a_heuristic(names):
    def build(library):

        def adds(arguments):
            outer.values["m"] = lambda args: 3
            return 16

        functions = {"BLOCK": adds, "MODE": lambda args: "a"}
        outer = library.heuristics({name: functions[name] for name in names})(library.jit(add))
        return outer

    both, x = Both(build), aligned()
    assert both.call(GRID, x, x, 5).error == (RuntimeError, "dictionary changed size during iteration")
    both.fast(GRID, x, x, 5)


def test_heuristics_that_replace_a_heuristic():
    def build(library):

        def replaces(arguments):
            outer.values["m"] = lambda args, old=outer.values["m"]: old(args) + 1
            return 16

        outer = library.heuristics({"BLOCK": replaces, "m": lambda args: 5})(library.jit(add))
        return outer

    both, x = Both(build), aligned()
    for _ in range(3):
        both.fast(GRID, x, x, 5)


def test_scalars_are_remembered_and_nothing_else():
    """From call to call the heuristics' dict starts from the last scalars; each call still sees its own arguments."""
    both, seen = both_with({"MODE": lambda args: "a"}, function=tune_me_anything)
    tensors = [aligned(), aligned(dtype=torch.float16)]
    arguments = [5, 5.0, True, None, 10**15, 1, 16, *tensors, "x"]
    for n, key in itertools.product(arguments, repeat=2):
        both.call(GRID, tensors[0], n, key)
        both.call(lambda meta: GRID, tensors[1], n=n, key=key)
    assert seen[lowlat] == [(name, kind, items) for name, kind, items in seen[lowlat]]
    for ours, theirs in zip(seen[lowlat], seen[triton]):
        assert [(name, type(value)) for name, value in ours[2]] == [(name, type(value)) for name, value in theirs[2]]
        assert all(a is b for (_, a), (_, b) in zip(ours[2], theirs[2]))
    x = aligned()
    reference = weakref.ref(x)
    seen[lowlat].clear()
    both.lowlat[GRID](x, 5, x)
    seen[lowlat].clear()
    del x
    assert reference() is None


def tune_me_anything(x, n, key, MODE: tl.constexpr):
    pass


def test_warmup_of_heuristics():
    both, _ = both_with({"BLOCK": lambda args: 32})
    launched = null.launches()
    for outer in (both.triton, both.lowlat):
        assert hasattr(outer.warmup(aligned(), torch.float32, 5, grid=GRID), "asm")
    assert null.launches() == launched


# ---- stacks ---------------------------------------------------------------------------------------------------------


def heuristic(library, **values):
    return library.heuristics({name: (lambda args, value=value: value) for name, value in values.items()})


class Wrapper:
    """Somebody else's decorator, as libraries have them."""

    def __init__(self, fn):
        self.fn, self.arg_names, self.calls = fn, fn.arg_names, []

    def run(self, *args, **kwargs):
        self.calls.append((args, list(kwargs)))
        return self.fn.run(*args, **kwargs)


STACKS = {
    "autotune(heuristics(jit))": lambda library, tune: tune(library)(heuristic(library, STEP=4)(library.jit(tune_me))),
    "heuristics(autotune(jit))": lambda library, tune: heuristic(library, STEP=4)(tune(library)(library.jit(tune_me))),
    "heuristics(heuristics(autotune(heuristics(jit))))": lambda library, tune: heuristic(library, n=3)(
        heuristic(library, STEP=2)(tune(library)(heuristic(library, STEP=5)(library.jit(tune_me))))),
    "autotune(triton.heuristics(jit))": lambda library, tune: tune(library)(heuristic(triton, STEP=4)(
        library.jit(tune_me))),
    "triton.autotune(heuristics(jit))": lambda library, tune: tune(triton)(heuristic(library, STEP=4)(
        library.jit(tune_me))),
    "triton.heuristics(autotune(jit))": lambda library, tune: heuristic(triton, STEP=4)(tune(library)(
        library.jit(tune_me))),
    "autotune(triton.jit)": lambda library, tune: tune(library)(triton.jit(tune_me)),
    "heuristics(triton.jit)": lambda library, tune: heuristic(library, BLOCK=16, STEP=2)(triton.jit(tune_me)),
    "autotune(wrapper(jit))": lambda library, tune: tune(library)(Wrapper(library.jit(tune_me))),
    "heuristics(wrapper(autotune(jit)))": lambda library, tune: heuristic(library, STEP=4)(Wrapper(tune(library)(
        library.jit(tune_me)))),
}


@pytest.mark.parametrize("stack", STACKS)
def test_stacks(stack):
    def tune(library):
        return library.autotune(configs(), key=["key", "STEP"], do_bench=fastest(1, 2, 0))

    both, x = Both(lambda library: STACKS[stack](library, tune)), aligned()
    for key in (5, 6):
        for grid in (GRID, lambda meta: (meta["BLOCK"], meta["STEP"])):
            both.fast(grid, x, x, n=2, key=key)
            both.run(x, x, n=2, key=key, grid=grid, warmup=False)
    wrappers = [[layer.calls for layer in layers_of(outer) if isinstance(layer, Wrapper)]
                for outer in (both.triton, both.lowlat)]
    assert wrappers[0] == wrappers[1]


def layers_of(outer):
    while outer is not None:
        yield outer
        outer = getattr(outer, "fn", None)


@pytest.mark.parametrize("stack", list(STACKS)[:3])
def test_stacks_are_native(stack):
    """No Python function is entered but the heuristics themselves."""
    tuner = STACKS[stack](lowlat, lambda library: library.autotune(configs(), key=["key", "STEP"]))
    x, entered = aligned(), []
    for _ in range(3):
        tuner[GRID](x, x, n=2, key=5)
    sys.setprofile(lambda frame, event, _: entered.append(frame.f_code.co_name) if event == "call" else None)
    try:
        tuner[GRID](x, x, n=2, key=5)
    finally:
        sys.setprofile(None)
    assert entered == ["<lambda>"] * stack.count("heuristics")


# ---- subclasses and replaced methods --------------------------------------------------------------------------------


def test_subclasses():
    class MyTuner(lowlat.Autotuner):

        def run(self, *args, **kwargs):
            self.ran = list(kwargs)
            return super().run(*args, **kwargs)

    class MyHeuristics(lowlat.Heuristics):

        def run(self, *args, **kwargs):
            self.ran = list(kwargs)
            return super().run(*args, **kwargs)

    class Plain(lowlat.Autotuner):
        pass

    kernel, x = lowlat.jit(tune_me), aligned()
    for cls in (MyTuner, Plain):
        tuner = cls(kernel, kernel.arg_names, configs(), ["key"], None, None)
        for _ in range(2):
            assert hasattr(tuner[GRID](x, x, 1, key=5), "asm")
        assert tuner.exits == {"subclass": 4} if cls is MyTuner else {"subclass": 2}
        assert cls is Plain or tuner.ran == ["grid", "warmup", "key"]
    mine = MyHeuristics(kernel, kernel.arg_names, {"BLOCK": lambda args: 16})
    assert hasattr(mine[GRID](x, x, 1, key=5), "asm") and mine.ran == ["grid", "warmup", "key"]
    inside = lowlat.autotune([triton.Config({})], key=[])(mine)
    del mine.ran
    assert hasattr(inside[GRID](x, x, 1, key=5), "asm")
    assert mine.ran == ["grid", "warmup", "key", "num_warps", "num_ctas", "num_stages"]


def test_run_set_on_the_instance():
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: setattr(tuner, "run", lambda *args, **kwargs: ("mine", args, kwargs)))
    # A call that would be native: what is not tuned yet leaves through Triton, which calls the new `run` anyway.
    assert both.lowlat[GRID](x, x, 1, 5) == both.triton[GRID](x, x, 1, 5) == (
        "mine", (x, x, 1, 5), {"grid": GRID, "warmup": False})
    outer = lowlat.heuristics({})(both.lowlat)
    assert outer[GRID](x, x, 1, 5)[0] == "mine"
    both.each(lambda tuner: delattr(tuner, "run"))
    both.fast(GRID, x, x, 1, 5)


def test_run_captured_before_it_was_replaced():
    """A wrapper set on the object may call what was there before; that launches, and is native."""
    both, x = Both.tuned(), aligned()
    outer = Both.__new__(Both)
    outer.triton, outer.lowlat = (library.heuristics({"STEP": lambda args: 2})(tuner)
                                  for library, tuner in ((triton, both.triton), (lowlat, both.lowlat)))
    outer.fast(GRID, x, x, 1, 5)
    seen = []

    def wrap(layer):
        layer.run = lambda *args, run=layer.run, **kwargs: seen.append(list(kwargs)) or run(*args, **kwargs)

    both.each(wrap)
    for call in (lambda layer: layer[GRID](x, x, 1, key=5),
                 lambda layer: layer.run(x, x, 1, key=5, grid=GRID, warmup=False)):
        outer.same(call)
        before = exits_of(outer.lowlat)
        outer.same(call)
        assert exits_of(outer.lowlat) == before
    outer.each(wrap)
    both.each(lambda tuner: wrap(tuner.fn))
    outer.same(lambda layer: layer[GRID](x, x, 1, key=5))
    assert len(seen) == 8 + 6 and seen[-3:] == seen[-6:-3]


def test_run_set_on_the_kernel():
    both, x, seen = Both.tuned(), aligned(), []
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: setattr(tuner.fn, "run", lambda *args, **kwargs: seen.append((args, list(kwargs.items())))))
    both.call(GRID, x, x, 1, key=5)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("owner", [TritonAutotuner, lowlat.Autotuner], ids=["triton's class", "lowlat's class"])
def test_run_swapped_on_the_class(owner, monkeypatch):
    x, seen = aligned(), []
    tuner = lowlat.autotune(configs(), key=["key"])(lowlat.jit(tune_me))
    outer = lowlat.heuristics({})(tuner)
    for _ in range(2):
        outer[GRID](x, x, 1, 5)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "run", lambda self, *args, **kwargs: seen.append((self, args, list(kwargs))) or "recorded")
        assert tuner[GRID](x, x, 1, key=5) == tuner.run(x, x, 1, grid=GRID, warmup=False, key=5) == "recorded"
        assert outer[GRID](x, x, 1, key=5) == "recorded"
    assert seen == [(tuner, (x, x, 1), ["grid", "warmup", "key"])] * 3
    before = exits_of(outer)
    outer[GRID](x, x, 1, 5)
    assert exits_of(outer) == before


@pytest.mark.parametrize("owner", [triton.runtime.jit.JITFunction, lowlat.JITFunction],
                         ids=["triton's class", "lowlat's class"])
def test_run_of_the_kernel_swapped_on_the_class(owner, monkeypatch):
    x, seen = aligned(), []
    tuner = lowlat.autotune(configs(), key=["key"])(lowlat.heuristics({})(lowlat.jit(tune_me)))
    for _ in range(2):
        tuner[GRID](x, x, 1, 5)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "run", lambda self, *args, **kwargs: seen.append((self, args, list(kwargs))) or "recorded")
        assert tuner[GRID](x, x, 1, key=5) == tuner.run(x, x, 1, grid=GRID, warmup=False, key=5) == "recorded"
    assert seen == [
        (tuner.fn.fn, (x, x, 1), ["grid", "warmup", "key", "BLOCK", "num_warps", "num_ctas", "num_stages"])] * 2
    before = exits_of(tuner)
    tuner[GRID](x, x, 1, 5)
    assert exits_of(tuner) == before


def test_run_of_heuristics_swapped(monkeypatch):
    x = aligned()
    outer = lowlat.heuristics({"BLOCK": lambda args: 16})(lowlat.jit(tune_me))
    outer[GRID](x, x, 1, 5)
    with monkeypatch.context() as patch:
        patch.setattr(TritonHeuristics, "run", lambda self, *args, **kwargs: "recorded")
        assert outer[GRID](x, x, 1, 5) == "recorded" and outer.exits == {"patched": 1}
    outer[GRID](x, x, 1, 5)
    assert outer.exits == {"patched": 1}


@pytest.mark.parametrize("owner", [KernelInterface, TritonAutotuner], ids=lambda owner: owner.__name__)
def test_getitem_swapped(owner, monkeypatch):
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "__getitem__", lambda self, grid: lambda *args, **kwargs: ("seen", grid, args),
                      raising=False)
        assert both.lowlat[GRID](x, 5) == both.triton[GRID](x, 5) == ("seen", GRID, (x, 5))
    both.fast(GRID, x, x, 1, 5)


def test_bench_replaced():
    """Users replace parts of tuning on the instance or in a subclass; tuning is Triton's own."""
    both, x = Both.tuned(), aligned()
    both.each(lambda tuner: setattr(tuner, "_bench", lambda *args, config, **meta: [config.num_stages] * 3))
    launches = both.call(GRID, x, x, 1, 5).launches
    assert len(launches) == 1 and both.lowlat.best_config.num_stages == 3 and both.tunings == 0
    both.fast(GRID, x, x, 1, 5)
    both.each(lambda tuner: setattr(tuner, "do_bench", lambda call, quantiles: call() or [7.0] * 3))
    both.each(lambda tuner: delattr(tuner, "_bench"))
    both.same(lambda tuner: tuner[GRID](x, x, 1, 6))


# ---- threads --------------------------------------------------------------------------------------------------------


def run_threads(count, work):
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number, )) for number in range(count)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    finally:
        sys.setswitchinterval(interval)
    assert not errors, errors


def test_threads():
    """Threads launching one tuner, some of them tuning, never mix arguments, configurations or what hooks see."""
    tensors = [aligned() for _ in range(8)]
    mixed_up = []

    def early(choices, named_arguments, **kwargs):
        if named_arguments["x"] is not tensors[named_arguments["n"] % 100]:
            mixed_up.append(named_arguments)
        return choices

    tuner = lowlat.autotune(configs(), key=["key"], prune_configs_by={"early_config_prune": early})(
        lowlat.heuristics({"STEP": lambda args: args["n"] * 2})(lowlat.jit(tune_me, do_not_specialize=["n"])))
    tuner[GRID](tensors[0], tensors[0], 100, 5)

    def grid(meta):
        if tuner.nargs["x"] is not tensors[meta["n"] % 100]:
            mixed_up.append(meta)
        return (meta["n"], )

    def work(number):
        for i in range(60):
            shape = grid if i % 2 else (100 + number, )
            tuner[shape](tensors[number], tensors[number], 100 + number, key=5 if i % 7 else i)

    for number in range(8):  # compiled beforehand
        tuner[GRID](tensors[number], tensors[number], 100 + number, key=5)
    with null.record() as launches:
        run_threads(8, work)
    assert not mixed_up
    assert len(launches) >= 8 * 60
    for launch in launches:
        number = launch.grid[0] - 100
        assert int.from_bytes(launch.parameters[0], "little") == tensors[number].data_ptr()
        assert int.from_bytes(launch.parameters[2][:4], "little") == 100 + number
    assert tuner.nargs is None


def test_threads_restoring_values():
    """Each thread gets its own tensor back: Triton keeps all copies in one place."""
    barrier = threading.Barrier(2, timeout=20)

    def do_bench(call, quantiles):
        barrier.wait()
        call()
        return [1.0] * 3

    tuner = lowlat.autotune(configs(), key=["key"], restore_value=["x"], do_bench=do_bench)(lowlat.jit(tune_me))
    original = tuner.pre_hook

    def overwrites(arguments, reset_only=False):
        original(arguments, reset_only=reset_only)
        if not reset_only:
            barrier.wait()  # both have made their copies
            arguments["x"].fill_(99.0)

    tuner.pre_hook = overwrites
    tensors = [torch.full((64, ), float(number)) for number in range(2)]
    run_threads(2, lambda number: tuner[GRID](tensors[number], tensors[number], 1, 5 + number))
    assert [tensor[0].item() for tensor in tensors] == [0.0, 1.0]


def test_another_threads_call_does_not_show():
    """`nargs` is the thread's own while its call lasts."""
    tuner = lowlat.autotune(configs(), key=["key"])(lowlat.jit(tune_me))
    x, y = aligned(), aligned()
    tuner[GRID](x, x, 1, 5)
    inside, done, seen = threading.Event(), threading.Event(), []

    def waits(meta):
        inside.set()
        assert done.wait(20)
        seen.append(tuner.nargs["x"])
        return GRID

    thread = threading.Thread(target=lambda: tuner[waits](x, x, 1, 5))
    thread.start()
    assert inside.wait(20)
    tuner[lambda meta: seen.append(tuner.nargs["x"]) or GRID](y, y, 1, 5)
    assert tuner.nargs is None
    done.set()
    thread.join()
    assert seen[0] is y and seen[1] is x and tuner.nargs is None


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_arguments_are_not_kept_alive():
    tuner = lowlat.autotune(configs(), key=["key"])(lowlat.heuristics({"STEP": lambda args: 2})(lowlat.jit(tune_me)))
    for grid in (GRID, lambda meta: GRID):
        for _ in range(3):
            x = aligned()
            reference = weakref.ref(x)
            tuner[grid](x, x, 300, key=500)
            del x
            assert reference() is None


def test_configs_are_not_kept_alive():
    """A config that the user has dropped goes, with what its attributes hold."""
    made, x = configs(), aligned()
    for config in made:
        config.note = lambda: None
    tuner = lowlat.autotune(made, key=["key"])(lowlat.jit(tune_me))
    for _ in range(3):
        tuner[GRID](x, x, 1, 5)
    references = [weakref.ref(held) for config in made for held in (config, config.note)]
    del made, config
    tuner.configs = configs()
    tuner.cache.clear()
    tuner[GRID](x, x, 1, 5)
    tuner.configs_timings = None
    gc.collect()
    assert [reference() for reference in references] == [None] * 6


def test_nothing_leaks():
    x, step = aligned(), int("100000")  # not one of the ints that everybody holds
    tuner = lowlat.autotune(configs(), key=["key", "STEP"])(lowlat.heuristics({"STEP": lambda args: step})(
        lowlat.jit(tune_me)))
    one = lowlat.autotune(configs()[:1], key=[])(lowlat.jit(tune_me))

    def work():
        for i in range(50):
            tuner[GRID](x, x, 500, i % 3)
            tuner[lambda meta: GRID](x, x, 500, key=7)
            tuner.run(x, x, 500, 5, grid=GRID, warmup=False)
            one[GRID](x, x, 500, 5)
            one[GRID](*(x, x), **{"n": 500, "key": 1000000 + i})
            for kernel in (tuner, one):
                with pytest.raises(TypeError):
                    kernel[GRID](x)
        tuner.nargs = None

    work()
    gc.collect()
    watched = (x, step, tuner, one, None, GRID, tuner.configs[0])
    before = len(gc.get_objects()), [sys.getrefcount(item) for item in watched]
    work()
    gc.collect()
    after = len(gc.get_objects()), [sys.getrefcount(item) for item in watched]
    assert after[0] - before[0] < 20  # (other tests' leftovers may go at any time)
    for item, (b, a) in zip(watched, zip(before[1], after[1])):
        assert abs(a - b) < (60 if item is None else 3), (item, b, a)


def test_keys_are_bounded():
    """Ever new keys, strings among them, neither grow what lowlat keeps nor break anything."""
    tuner, x = lowlat.autotune(configs(2), key=["key"])(lowlat.jit(takes_anything)), aligned()
    tuner[GRID](x, 0)
    config = tuner.configs[1]
    kernel = tuner.fn
    kernel.run = lambda *args, **kwargs: kwargs["BLOCK"]
    for i in range(5000):
        tuner.cache[(f"key {i}", "torch.float32")] = config
    assert [tuner[GRID](x, f"key {i}") for i in range(5000)] == [32] * 5000
    assert sum(type(item).__name__ == "Choice" for item in gc.get_objects()) < 4500
    tuner.cache = {}
    tuner._bench = lambda *args, **kwargs: [1.0] * 3
    assert tuner[GRID](x, "key 7") == 16
    for i in range(600):
        assert tuner[GRID](x, 5, **{f"option_{i}": i}) == 16


# ---- the classes ----------------------------------------------------------------------------------------------------


def test_they_are_tritons_classes():
    both = Both.tuned()
    assert isinstance(both.lowlat, TritonAutotuner) and type(both.lowlat).__name__ == "Autotuner"
    outer = lowlat.heuristics({"n": len})(both.lowlat)
    assert isinstance(outer, TritonHeuristics) and type(outer).__name__ == "Heuristics"
    assert lowlat.Config is triton.Config
    for ours, theirs in ((lowlat.autotune, triton.autotune), (lowlat.heuristics, triton.heuristics),
                         (lowlat.Autotuner.__init__, TritonAutotuner.__init__),
                         (lowlat.Heuristics.__init__, TritonHeuristics.__init__)):
        assert inspect.signature(ours) == inspect.signature(theirs)
    for name in ("keys", "arg_names", "cache", "reset_to_zero", "restore_value", "user_defined_pre_hook",
                 "user_defined_post_hook", "perf_model", "configs_top_k", "early_config_prune", "num_warmups",
                 "num_reps", "use_cuda_graph", "base_fn", "cache_results"):
        assert getattr(both.lowlat, name) == getattr(both.triton, name), name
    assert [str(config) for config in both.lowlat.configs] == [str(config) for config in both.triton.configs]
    both.lowlat.something = 1
    assert vars(both.lowlat)["something"] == 1
    assert both.lowlat.configs is not configs and both.lowlat.do_bench is both.lowlat._do_bench


def test_options_reach_triton():
    options = {"warmup": 5, "rep": 7, "use_cuda_graph": False}
    for library in (triton, lowlat):
        with pytest.warns(DeprecationWarning, match="deprecated"):
            tuner = library.autotune(configs(), ["key"], None, None, None, None, None, **options)(library.jit(tune_me))
        assert (tuner.num_warmups, tuner.num_reps, tuner.use_cuda_graph) == (5, 7, False)


def test_launchers_are_values():
    tuner, x = lowlat.autotune(configs(), key=["key"])(lowlat.jit(tune_me)), aligned()
    first, second = tuner[(1, )], tuner[(2, )]
    first(x, x, 1, 5)
    with null.record() as launches:
        second(x, x, 1, 5)
        first(x, x, 1, 5)
    assert [launch.grid[0] for launch in launches] == [2, 1]
    assert callable(first) and first != second and "launcher" in repr(first)


def test_copies():
    """A shallow copy shares the cache and the configs; attributes are its own."""
    both, x = Both.tuned(), aligned()
    both.fast(GRID, x, x, 1, 5)
    copies = Both.__new__(Both)
    copies.triton, copies.lowlat = copy.copy(both.triton), copy.copy(both.lowlat)
    assert copies.lowlat.cache is both.lowlat.cache and copies.lowlat.best_config is both.lowlat.best_config
    copies.fast(GRID, x, x, 1, 5)
    copies.each(lambda tuner: setattr(tuner, "configs", configs()[:1]))
    copies.fast(GRID, x, x, 1, 5)
    both.fast(GRID, x, x, 1, 5)
    assert both.lowlat.best_config is not copies.lowlat.best_config
    heuristics = copy.copy(lowlat.heuristics({"BLOCK": lambda args: 16})(lowlat.jit(tune_me)))
    assert hasattr(heuristics[GRID](x, x, 1, 5), "asm")


def test_dynamo_sees_a_tuner():
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
    from torch.library import wrap_triton

    tuner = lowlat.autotune(configs(), key=["key"])(lowlat.jit(tune_me))
    assert wrap_triton(tuner) is not None
    assert kernel_side_table.get_kernel(kernel_side_table.add_kernel(tuner)) is tuner


def test_launch_hooks():
    """Hooks see the launch, and the tuner's arguments."""
    seen, x = [], aligned()
    tuner = lowlat.autotune(configs(), key=["key"])(lowlat.jit(tune_me))
    for _ in range(2):
        tuner[GRID](x, x, 1, 5)
    tuner.fn.add_pre_run_hook(lambda *args, **kwargs: seen.append((tuner.nargs["x"], kwargs["BLOCK"])))
    tuner[GRID](x, x, 1, 5)
    assert seen == [(x, 16)] and tuner.fn.exits["pre-run hook"] == 1


@pytest.mark.parametrize("environment", [{"LOWLAT": "0"}, {"TRITON_INTERPRET": "1"}], ids=str)
def test_switched_off(environment):
    code = ("import triton, torch, lowlat\nfrom triton.runtime.autotuner import Autotuner, Heuristics\n"
            "from test_autotune import tune_me, configs\n"
            "tuner = lowlat.autotune(configs(), key=['key'])(lowlat.heuristics({'STEP': lambda a: 2})(\n"
            "    lowlat.jit(tune_me)))\n"
            "assert type(tuner) is Autotuner and type(tuner.fn) is Heuristics, (type(tuner), type(tuner.fn))\n")
    if "TRITON_INTERPRET" in environment:
        code += ("tuner.configs = tuner.configs[:1]\nx = torch.zeros(4, dtype=torch.int32)\n"
                 "tuner[(1,)](x, x, 5, 1)\nassert x[0] == 16 + 2")
    folder = os.path.dirname(__file__)
    package = os.path.dirname(os.path.dirname(lowlat.__file__))  # the lowlat under test
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=folder,
                            env={**os.environ, "PYTHONPATH": path, **environment})
    assert result.returncode == 0, result.stderr
