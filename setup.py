"""The C extensions, and the README as package indexes show it; everything else about the package is in setup.cfg.

They are optional: where one cannot be compiled the installation goes on without it, and the package
counts with its pure Python core.
"""

import os
import re
from configparser import ConfigParser
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent

flags = ["-std=c11", "-O3", "-Wall", "-Wextra"]
if os.environ.get("SHMSTATS_WERROR"):
    flags.append("-Werror")


def readme() -> str:
    """The README with absolute links: an index has no files beside it. Images are shown, other files are looked at."""
    metadata = ConfigParser(interpolation=None)
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    url = metadata["metadata"]["url"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)", rf"\1{url}/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\1{url}/blob/main/", text)


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
            extra_compile_args=flags,
            optional=True,
        ),
    ],
)
