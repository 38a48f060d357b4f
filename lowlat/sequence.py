"""`lowlat.record()`: a sequence of launches that is replayed as one CUDA graph, with new arguments."""

from __future__ import annotations

from typing import Any

from . import _fast, _triton


class NotRecordable(RuntimeError):
    """A launch cannot be part of a sequence; the message says which, and why."""


class Changed(NotRecordable):
    """A launch of a sequence is another kernel's now, or on another stream."""


_fast.configure_sequences(not_recordable=NotRecordable, changed=Changed, outer_module=_triton.outer_module)


def record(*names: str, on_change: str = "record") -> Sequence:
    """`with lowlat.record(...) as sequence:` the launches that this thread makes inside, of lowlat's kernels, tuners
    and heuristics, are made as always and collected; `sequence.replay(...)` then makes them all again, as one graph.

    `names` are arguments that replays give new values by position: `"x"` for each argument of that name, `"norm.x"` for
    those of kernel `norm` alone, `"2.x"` for that of launch 2 (from 0); `"2.grid"` is a grid.  By keyword a replay can
    give any argument a new value.

    `on_change` says what becomes of a replay whose launches are not those of the graph: because an argument makes it
    another specialisation, because a hook is set, a tuner's choice is another, the stream is another or is captured.
    "record": the launches are made one by one, as without a sequence, and the graph is made anew where it has to be.
    "raise": NotRecordable, and nothing is launched.

    Grid callables and heuristics are called once more when the block ends, and up to three times in a replay whose
    launches are made one by one.  They are called before any launch of a graph: one must not depend on what an earlier
    launch of the sequence writes to the device, and one that makes launches of lowlat's itself is refused.

    Raises ValueError for another `on_change`, RuntimeError where this thread records already, and, when the block ends,
    NotRecordable for a launch that lowlat would not make natively, or not on one stream with the others, or with
    attributes (cooperative, PDL, clusters).  Those launches have been made, then.
    """
    if on_change not in ("record", "raise"):
        raise ValueError(f"on_change is {on_change!r}, must be 'record' or 'raise'")
    return Sequence(names, on_change)


class Sequence(_fast.Replayer):
    """What `record()` collects.  It holds every argument of its launches, tensors included, and their CompiledKernels,
    until it goes."""

    def __init__(self, names: tuple[str, ...], on_change: str) -> None:
        super().__init__(names)
        self.on_change = on_change
        self._recorded = False

    def __enter__(self) -> Sequence:
        if self._recorded:
            raise RuntimeError("this sequence has been recorded; record() makes another")
        self._recording = _fast.start_recording(self._calls)
        self._recorded = True
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        _fast.stop_recording(self._recording)
        if kind is not None:
            self._calls.clear()
            return
        try:
            graph = _fast.SequenceGraph(self._calls)
            self._name_places()
            self._one_value_each(self._names)
            self._graph = graph  # last: without one it cannot be replayed
        except BaseException:
            self._calls.clear()
            raise

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<lowlat sequence of {len(self)} launches>"

    def _name_places(self) -> None:
        found: dict[str, list[tuple[_fast.Call, int]]] = {}
        for number, call in enumerate(self._calls):
            arguments = {**call.arguments(), "grid": -1} if call.has_grid() else call.arguments()
            for name, index in arguments.items():
                for key in (name, f"{call.name()}.{name}", f"{number}.{name}"):
                    found.setdefault(key, []).append((call, index))
        self._places = {name: _fast.Places(places) for name, places in found.items()}

    def _one_value_each(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self._places:
                raise KeyError(f"{name!r}: no launch of this sequence has such an argument; they have "
                               f"{', '.join(sorted(self._places))}")
            first, *others = [call.get(index) for call, index in self._places[name]]
            if not all(_same(value, first) for value in others):
                self._one_value.discard(name)
                ways = [key for key in self._places if key.endswith(f".{name}") and key.split(".")[0].isdecimal()]
                raise ValueError(f"{name!r} stands for different values; say one of {', '.join(ways)}")
            self._one_value.add(name)

    def _several_after(self, name: str) -> set[str]:
        """The names that may stand for several values once this one has got another."""
        own = {(id(call), index) for call, index in self._places[name]}
        places = {other: {(id(call), index) for call, index in found} for other, found in self._places.items()}
        self._overlaps[name] = {other for other, found in places.items() if found & own and not found <= own}
        return self._overlaps[name]


def _same(left: Any, right: Any) -> bool:
    """Whether two arguments are one and the same: objects by identity, numbers, strings and tuples of such by value."""
    if left is right:
        return True
    if type(left) is not type(right) or type(left) not in (int, float, str, tuple):
        return False
    if type(left) is tuple:
        return len(left) == len(right) and all(map(_same, left, right))
    if type(left) is float:
        return left.hex() == right.hex()  # 0.0 and -0.0 are two
    return bool(left == right)
