"""Instructions per launch, counted by valgrind: a series without noise, where times on shared machines have much.

Always on the null driver, also where there is a GPU.  n/a where valgrind or a C compiler is missing.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .common import CHECKOUT, not_available, outcome, process, value
from .launch import CASES

PATHS = ["lowlat", "triton"]


def setup_cache():
    if not shutil.which("valgrind") or not shutil.which("cc"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        requests, counts = Path(folder, "requests.so"), Path(folder, "counts")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", requests, CHECKOUT / "asv_bench" / "requests.c"],
                       check=True)
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counts}"]
        lacking, error = outcome(lambda: process("count", requests, *CASES, before=valgrind, CUDA_VISIBLE_DEVICES=""))
        totals = {}
        for dump in Path(folder).glob("counts.*"):
            text = dump.read_text()
            if match := re.search(r"^desc: Trigger: Client Request: (\w+)/([\w ]+)/(\d+)$", text, re.MULTILINE):
                path, case, launches = match.groups()
                total = int(re.search(r"^totals: (\d+)$", text, re.MULTILINE)[1])
                totals.setdefault((case, path), []).append((int(launches), total))
    values = {}
    for case in CASES:
        values[case] = {}, error
        if error is None and case in lacking:
            values[case] = None, NotImplementedError(lacking[case])
        for path in PATHS:
            if (case, path) in totals:
                (few, at_few), (many, at_many) = sorted(totals[case, path])
                values[case][0][path] = (at_many - at_few) / (many - few)
    return values


class Instructions:
    params = [PATHS, CASES]
    param_names = ["path", "case"]
    version = "1"

    def track_instructions(self, measured, path, case):
        if measured is None:
            not_available("needs valgrind and a C compiler")
        return value(measured[case], path)

    track_instructions.unit = "instructions"
