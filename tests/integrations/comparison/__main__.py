"""Run all experiments with one library, each in separate processes, and print the results as JSON.

python -m comparison LIBRARY DIRECTORY NEWEST: NEWEST has the newest prometheus_client; other modules that this
interpreter lacks, for example Flask, are imported from there too, with the lowest priority.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(name: str, directory: Path, newest: str) -> None:
    if name in ("prometheus_client", "prometheus_flask_exporter"):  # the library reads that when it is imported
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    sys.path.append(newest)
    from .features import FEATURES
    from .libraries import LIBRARIES
    from .sites import examine

    library = LIBRARIES[name]()
    library.name, library.newest = name, newest
    library.load()
    found = {}
    for number, (title, experiment) in enumerate(FEATURES.items()):
        found[title] = examine(library, experiment, directory / str(number))
    print(json.dumps({"versions": library.versions(), "found": found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
