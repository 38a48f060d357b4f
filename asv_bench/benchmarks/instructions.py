"""Instructions per launch, counted by valgrind: a series without noise, where times on shared machines have much.

Always on the null driver, also where there is a GPU.  n/a where valgrind or a C compiler is missing.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .common import CHECKOUT, Lacking, not_available, process, value
from .launch import CASES

PATHS = ["lowlat", "triton"]


def setup_cache():
    """{case: [{path: instructions}]}, or what went wrong in its place; None without the tools."""
    if not shutil.which("valgrind") or not shutil.which("cc"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        requests, dumps = Path(folder, "requests.so"), Path(folder, "dumps")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", requests, CHECKOUT / "asv_bench" / "requests.c"],
                       check=True)
        lacking = process("count", requests, *CASES, CUDA_VISIBLE_DEVICES="", before=[
            "valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={dumps}"])
        totals = {}
        for dump in Path(folder).glob("dumps.*"):
            text = dump.read_text()
            if match := re.search(r"^desc: Trigger: Client Request: (\w+)/(.+)/(\d+)$", text, re.MULTILINE):
                path, case, launches = match.groups()
                total = int(re.search(r"^totals: (\d+)$", text, re.MULTILINE)[1])
                totals.setdefault((case, path), []).append((int(launches), total))
    measured = {case: Lacking(why) for case, why in lacking.items()}
    for (case, path), counts in totals.items():
        (few, at_few), (many, at_many) = sorted(counts)
        measured.setdefault(case, [{}])[0][path] = (at_many - at_few) / (many - few)
    return measured


class Instructions:
    params = [PATHS, CASES]
    param_names = ["path", "case"]
    version = "1"

    def track_instructions(self, measured, path, case):
        if measured is None:
            not_available("needs valgrind and a C compiler")
        return value(measured, case, path)

    track_instructions.unit = "instructions"
