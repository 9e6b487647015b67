"""The C extensions, and the README as package indexes show it; everything else about the package is in setup.cfg.

They are optional: where one cannot be compiled the installation goes on without it, and the package
counts with its pure Python core.

This file is also read by what is too old for the package: so it can be parsed by any Python.
"""

import sys

# An old pip does not look at python_requires.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("shmstats needs Python 3.11 or later, this is " + sys.version.split()[0] + ": use a newer one")

import os
import re
from configparser import ConfigParser
from glob import glob
from pathlib import Path

try:
    from setuptools import Extension, setup
except ImportError:  # from Python 3.12 on an environment has none, and an old pip does not bring it
    sys.exit("to build shmstats takes setuptools, which a newer pip brings: python -m pip install --upgrade pip")

ROOT = Path(__file__).parent

flags = ["-std=c11", "-O3", "-Wall", "-Wextra"]
if os.environ.get("SHMSTATS_WERROR"):
    flags.append("-Werror")


def readme():
    """The README with absolute links: an index has no files beside it. Images are shown, other files are looked at."""
    metadata = ConfigParser(interpolation=None)
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    url = metadata["metadata"]["url"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", r"\1" + url + "/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", r"\1" + url + "/blob/main/", text)


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    ext_modules=[
        Extension(
            "shmstats.core._cells",
            ["shmstats/core/_cells.c"],
            depends=glob("shmstats/core/*.h"),
            extra_compile_args=flags,
            optional=True,
        ),
        Extension(
            "shmstats.integrations._exchange",
            ["shmstats/integrations/_exchange.c"],
            depends=[*glob("shmstats/integrations/*.h"), "shmstats/core/collected.h"],
            extra_compile_args=flags,
            optional=True,
        ),
    ],
)
