"""Launch latency across commits, in microseconds per launch; path and case are parameters, so that a ratio comes from
one run.

`track_*` with the benchmark's own loop: with any `setup`, asv_runner 0.3 and later time every call by itself.  On the
GPU where there is one, else on the null driver.
"""

from lowlat import bench

BATCHES = 30
_device = None


def _measured(case_name):
    """All paths of a case, measured interleaved, once per process."""
    global _device
    if _device is None:
        _device = bench.Device()
    if case_name not in _results:
        case = next(case for case in (*bench.CASES, *bench.SLOPES) if case.name == case_name)
        _results[case_name], _ = bench.measure(case, _device, BATCHES)
    return _results[case_name]


_results = {}


class Launch:
    params = [list(bench.PATHS), [case.name for case in bench.CASES]]
    param_names = ["path", "case"]
    unit = "us"
    version = "1"  # raised by hand when the loop changes; asv does not see that

    def track_host_time(self, path, case):
        return _measured(case)[path].median / 1000

    track_host_time.unit = unit
    track_host_time.version = version


class Slope:
    """Nanoseconds for each further argument."""

    params = [["lowlat", "triton"], ["tensor", "scalar", "constexpr"]]
    param_names = ["path", "kind"]

    def track_slope(self, path, kind):
        many = {"tensor": "17 tensors", "scalar": "16 scalars", "constexpr": "16 constexprs"}[kind]
        return (_measured(many)[path].median - _measured("1 tensor")[path].median) / 16

    track_slope.unit = "ns"
    track_slope.version = "1"
