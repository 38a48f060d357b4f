"""asv, told what it measures on: the CPU and the GPU, or the null driver where there is none, are the machine's name.

    python asv_bench/run.py continuous HEAD^ HEAD       any asv command that measures or compares, and its arguments
"""

import os
import subprocess
import sys
from pathlib import Path

from lowlat import bench


def main(arguments: list[str]) -> None:
    if not arguments:
        sys.exit(__doc__)
    device = bench.Device()
    name = f"{bench.environment(device)['cpu']}, {device.name}".replace("/", "-")
    asv = [sys.executable, "-m", "asv"]
    os.chdir(Path(__file__).parent)
    subprocess.run([*asv, "machine", "--yes", "--machine", name], stdout=subprocess.DEVNULL, check=True)
    os.environ["LOWLAT_ASV_DEVICE"] = device.name  # the benchmarks refuse any other
    os.execv(sys.executable, [*asv, *arguments, "--machine", name])


main(sys.argv[1:])
