"""The compiled parts of lowlat: the Cython hot path and the null driver.

Everything else about the package is in pyproject.toml.  LOWLAT_ANNOTATE=1 also
writes Cython's annotated listing (lowlat/_fast.html), LOWLAT_DEBUG=1 builds
without optimisation and with symbols.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("LOWLAT_DEBUG") == "1"
FLAGS = ["-O0", "-g3"] if DEBUG else os.environ.get("LOWLAT_CFLAGS", "-O2 -g0").split()

NULL_DRIVER = "lowlat.null.libcuda"


class BuildExt(build_ext):
    """Names the null driver what Triton's linker and the loader look for."""

    def get_ext_filename(self, fullname: str) -> str:
        # Called with the full name and, when the target folder is known, with the last part alone.
        *package, name = fullname.split(".")
        if name == NULL_DRIVER.rpartition(".")[2]:
            return os.path.join(*package, "libcuda.so.1")
        return super().get_ext_filename(fullname)


fast = Extension(
    "lowlat._fast",
    ["lowlat/_fast.pyx"],
    depends=["lowlat/_fast.pxd", "lowlat/_driver.h", "lowlat/_graph.h", "lowlat/_python.h", "lowlat/_torch.h"],
    extra_compile_args=[*FLAGS, "-Wall", "-Wno-unused-function"],
    libraries=["dl"],
)
null_driver = Extension(
    NULL_DRIVER,
    ["lowlat/null/driver.c"],
    depends=["lowlat/_driver.h"],
    extra_compile_args=[*FLAGS, "-Wall", "-Wextra", "-fvisibility=hidden", "-ftls-model=initial-exec"],
    extra_link_args=["-Wl,-soname,libcuda.so.1", "-pthread"],
)

setup(
    ext_modules=[
        *cythonize(
            [fast],
            compiler_directives={"language_level": "3"},
            annotate=os.environ.get("LOWLAT_ANNOTATE") == "1",
        ),
        null_driver,
    ],
    cmdclass={"build_ext": BuildExt},
)
