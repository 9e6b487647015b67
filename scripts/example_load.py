"""The load that ``scripts/serve --load`` makes: some visitors of the example site, until the server ends.

python example_load.py PORT PARENT
"""

from __future__ import annotations

import http.client
import os
import random
import sys
import threading
import time

VISITORS = 3

#: Method, path, frequency.
VISITS = (
    ("GET", "/items/{number}", 40),
    ("GET", "/work", 20),
    ("GET", "/login", 12),
    ("GET", "/hit?n=2", 10),
    ("POST", "/orders", 10),
    ("GET", "/no/such/page", 2),
    ("GET", "/report", 1),
)


def visit(port: int, parent: int) -> None:
    """Request one page after another as long as the server's process is the parent of this one."""
    weights = [often for _, _, often in VISITS]
    while os.getppid() == parent:
        ((method, path, _),) = random.choices(VISITS, weights)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path.format(number=random.randrange(104)))
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            time.sleep(0.5)  # the server starts, reloads or ends
        finally:
            connection.close()
        time.sleep(random.expovariate(40))


def main() -> None:
    """Run some visitors."""
    port, parent = map(int, sys.argv[1:])
    visitors = [threading.Thread(target=visit, args=(port, parent)) for _ in range(VISITORS)]
    for visitor in visitors:
        visitor.start()


if __name__ == "__main__":
    main()
