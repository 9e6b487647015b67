"""gunicorn's settings for the example site; the command line adds address and workers."""

proc_name = "shmstats-example"

# gunicorn 25 and later would put a socket for its own control program into the home directory.
control_socket_disable = True
