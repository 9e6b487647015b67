"""The one C extension; everything else about the package is in setup.cfg.

The extension is optional: where it cannot be compiled the installation goes on without it, and
`shmstats.core` uses its pure Python twin.
"""

import glob
import os

from setuptools import Extension, setup

flags = ["-std=c11", "-O3", "-Wall", "-Wextra"]
if os.environ.get("SHMSTATS_WERROR"):
    flags.append("-Werror")

setup(
    ext_modules=[
        Extension(
            "shmstats.core._cells",
            ["shmstats/core/_cells.c"],
            depends=glob.glob("shmstats/core/*.h"),
            extra_compile_args=flags,
            optional=True,
        )
    ]
)
