"""The Python surface of the compiled hot path (checked against the module by mypy's stubtest in the tests)."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, final

REASONS_TEXT: dict[str, str]
REASON_NAMES: tuple[str, ...]
ROUTE_NAMES: dict[int, str]
WAY_NAMES: dict[int, str]
SUBMISSIONS_TEXT: dict[str, str]
SUBMISSION_NAMES: tuple[str, ...]

@final
class Launcher:
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

@final
class OuterLauncher:
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

@final
class Plan:
    def __init__(
        self,
        route: str,
        *,
        reason: str = "ok",
        compiled: Any = None,
        key: Any = None,
        device: int = 0,
        function: int = 0,
        threads: int = 0,
        clusters: int = 1,
        shared: int = 0,
        slots: tuple[int, ...] = (),
        pdl: bool = False,
        cooperative: bool = False,
        oversized_shared: bool = False,
        function_object: Any = None,
        before: tuple[Any, ...] = (),
        after: tuple[Any, ...] = (),
        flat_arguments: bool = False,
        exit_hook: int = -1,
        scratch_size: int | None = None,
        scratch_align: int | None = None,
        scratch: int = -1,
        why: str = "",
        maps: tuple[tuple[int, int, int, Any], ...] = (),
        encode: Any = None,
        map_offset: int = 0,
    ) -> None: ...
    @property
    def route(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def submitted(self) -> dict[str, int]: ...
    @property
    def graphs(self) -> int: ...

class Kernel:
    pre_run_hooks: Any
    device_caches: Any
    @property
    def used_global_vals(self) -> Any: ...
    @used_global_vals.setter
    def used_global_vals(self, value: Any) -> None: ...
    @property
    def debug(self) -> Any: ...
    @debug.setter
    def debug(self, value: Any) -> None: ...
    @property
    def route(self) -> str | None: ...
    @route.setter
    def route(self, value: str | None) -> None: ...
    @property
    def exits(self) -> dict[str, int]: ...
    @property
    def plans(self) -> list[Plan]: ...
    def __getitem__(self, grid: Any) -> Launcher: ...
    def run(self, *args: Any, grid: Any, warmup: Any, **kwargs: Any) -> Any: ...
    def warmup(self, *args: Any, grid: Any, **kwargs: Any) -> Any: ...
    def forget(self) -> None: ...
    def _describe_parameters(
        self, parameters: list[tuple[Any, ...]], refusal: str, positional: int, variadic: int
    ) -> None: ...

class Outer:
    fn: Any
    arg_names: Any
    @property
    def exits(self) -> dict[str, int]: ...
    def __getitem__(self, grid: Any) -> OuterLauncher: ...
    def run(self, *args: Any, **kwargs: Any) -> Any: ...

class Tuner(Outer):
    configs: Any
    keys: Any
    cache: Any
    @property
    def best_config(self) -> Any: ...
    @best_config.setter
    def best_config(self, value: Any) -> None: ...
    @property
    def nargs(self) -> Any: ...
    @nargs.setter
    def nargs(self, value: Any) -> None: ...
    def _own_attributes(self) -> dict[str, Any] | None: ...
    def _in_own_call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

class Heuristic(Outer):
    values: Any

@final
class Call:
    def __init__(
        self,
        target: Any,
        grid: Any,
        values: list[Any],
        names: tuple[str, ...],
        through_run: bool,
        place: tuple[int, int] | None = None,
        by_triton: bool = False,
    ) -> None: ...
    def name(self) -> str: ...
    def arguments(self) -> dict[str, int]: ...
    def has_grid(self) -> bool: ...
    def warmup(self) -> bool: ...
    def launch(self) -> Any: ...
    def get(self, index: int) -> Any: ...

@final
class Recording: ...

@final
class SequenceGraph:
    def __init__(self, calls: list[Call]) -> None: ...
    @property
    def stream(self) -> int: ...
    @property
    def changes(self) -> int: ...
    def replay(self) -> str | None: ...

def configure(
    *,
    watch_state: Callable[[], Any],
    read_state: Callable[[], Any],
    patched_getitem: Callable[[Any, Any], Any],
    describe: Callable[[Any, Any, int, bool], Any],
    run_with_triton: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
    launch_with_triton: Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any],
    warmup_with_triton: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
    finish_with_triton: Callable[[Any, Any, Any, int, dict[str, Any]], None],
    exit_hook: Callable[[], Any],
    allocate: Callable[[int, int, int], Any],
    kernel_type: type,
    constexpr_type: type,
    immutable_types: tuple[type, ...],
    triton_dtype_type: type,
    wrapper_type: type,
    mock_type: type,
    kernel_types: tuple[type, ...],
    descriptor_type: type,
    descriptor_fields: tuple[str, ...],
) -> None: ...
def configure_outer(
    *,
    tuner_type: type,
    heuristics_type: type,
    config_type: type,
    read_outer: Callable[[], str],
    run_with_triton: Callable[[Any, bool, Any, tuple[Any, ...], dict[str, Any]], Any],
    getitem: Callable[[Any, Any], Any],
) -> None: ...
def configure_torch(
    *,
    tensor_type: type,
    parameter_type: type,
    dtype_type: type,
    size_type: type,
    function_mode_depth: Callable[[], int],
    dtypes: dict[Any, int],
    devices: dict[str, int],
    function_mode_enabled: int = 0,
) -> None: ...
def find_driver() -> None: ...
def find_graphs() -> None: ...
def place_parameters(plan: Plan) -> None: ...
def set_everywhere(places: list[tuple[Call, int]], value: Any) -> None: ...
def start_recording(calls: list[Call]) -> Recording: ...
def stop_recording(recording: Recording) -> None: ...
def configure_sequences(*, not_recordable: type, changed: type, outer_module: str) -> None: ...
def set_route(route: str | None, after: int, budget: int, launch_blocking: bool) -> None: ...
def routes_in_contexts(variable: ContextVar[int]) -> None: ...
def way_named(route: str | None) -> int: ...
def graph_count() -> int: ...
def drop_graphs() -> None: ...
def race(device: int) -> tuple[int, int] | None: ...
def state_changed() -> None: ...
def after_fork() -> None: ...
def current_reason() -> str: ...
def current_device() -> int: ...
def current_stream(device: int) -> int: ...
def set_current_readers(
    *,
    torch_device: int = 0,
    torch_stream: int = 0,
    null_device: int = 0,
    null_stream: int = 0,
    only_device: bool = False,
) -> None: ...
def set_rung(
    name: str,
    *,
    offset: int = 0,
    maybe_borrowed: bool = False,
    data_ptr: int = 0,
    dtype: int = 0,
    device_type: int = 0,
    device_index: int = 0,
    storage_size: int = 0,
    dlpack: Any = None,
) -> None: ...
def set_devices(devices: int) -> None: ...
def get_devices() -> int: ...
def set_ranged(ranged: bool) -> None: ...
def word_at(holder: Any, offset: int) -> int: ...
def read(tensor: Any) -> tuple[int, int, int, int] | None: ...
def fingerprint_of(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes: ...
def hash_of_fingerprint(fingerprint: bytes) -> int: ...
def function_mode_active() -> bool: ...
def floor(
    function: int,
    pointers: list[int],
    zeros: int,
    threads: int,
    shared: int,
    stream: int,
    count: int,
    nodes: int = 0,
    changes: int = 0,
) -> float: ...
