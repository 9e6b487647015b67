"""gunicorn's settings for the example site; the command line adds address and workers."""

import os

import shmstats
from shmstats.integrations.gunicorn import *  # noqa: F403 - its hooks are settings of gunicorn

# The master counts the workers' ends into the same block as they.
shmstats.init({"path": {"data": os.environ.get("EXAMPLE_SITE_DATA", "data")}})

proc_name = "shmstats-example"

# Slow clients wait outside: a thread gets a request when its head is there.
worker_class = "shmstats.web.doorkeeper.PatientWorker"
threads = 8
keepalive = 0

# gunicorn 25 and later would put a socket for its own control program into the home directory.
control_socket_disable = True
