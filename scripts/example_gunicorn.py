"""gunicorn's settings for the example site; the command line adds address and workers."""

import os

import shmstats
from shmstats.integrations.gunicorn import *  # noqa: F403 - its hooks are settings of gunicorn

# The master counts the ends of workers into the same block.
shmstats.init({"path": {"data": os.environ.get("EXAMPLE_SITE_DATA", "data")}})

proc_name = "shmstats-example"

# A thread gets a request after its head has arrived, so slow clients occupy no thread.
worker_class = "shmstats.web.doorkeeper.PatientWorker"
threads = 8
keepalive = 0

# gunicorn 25 and later would create a socket for its control program in the home directory.
control_socket_disable = True
