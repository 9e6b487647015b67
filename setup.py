"""The one C extension; everything else about the package is in setup.cfg.

The extension is optional: where it cannot be compiled the installation goes on without it, and
`shmstats.block` uses its pure Python twin.
"""

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
            extra_compile_args=flags,
            optional=True,
        )
    ]
)
