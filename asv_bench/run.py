"""asv, told what it measures on: the CPU and the GPU, or the null driver where there is none, are the machine's name.

    python asv_bench/run.py continuous HEAD^ HEAD       or any other asv command and its arguments
"""

import os
import subprocess
import sys
from pathlib import Path

from lowlat import bench

OF_A_MACHINE = {"run", "continuous", "compare", "find", "profile", "show"}


def main(arguments: list[str]) -> None:
    if not arguments:
        sys.exit(__doc__)
    device = bench.Device()
    name = f"{bench.environment(device)['cpu']}, {device.name}".replace("/", "-")
    asv = [sys.executable, "-m", "asv"]
    os.chdir(Path(__file__).parent)
    subprocess.run([*asv, "machine", "--yes", "--machine", name], stdout=subprocess.DEVNULL, check=True)
    os.environ["LOWLAT_ASV_DEVICE"] = device.name  # the benchmarks refuse any other
    machine = ["--machine", name] if arguments[0] in OF_A_MACHINE else []
    os.execv(sys.executable, [*asv, *arguments, *machine])


main(sys.argv[1:])
