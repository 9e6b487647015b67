"""Servers other than gunicorn for tests: how each is started, reloaded and found, on loopback."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from real.servers import BOUND, children, group_lives, wait_until

from shmstats.terminal.top import read_stacks

ROOT = Path(__file__).parents[2]

#: Seconds in which a worker has loaded the site.
_SETTLED = 5.0

WSGI = """
import os
import shlex
import sys
from flask import Flask
from shmstats import stats
from shmstats.web import blueprint
{prelude}
app = Flask(__name__)
app.register_blueprint(blueprint)


@app.get("/hit")
def hit():
    stats.incr("site", "hits")
    return str(os.getpid())


print("site loaded", file=sys.stderr, flush=True)
"""

ASGI = """
import os
import shlex
import sys
from a2wsgi import WSGIMiddleware
from shmstats import stats
from shmstats.web import create_app
{prelude}
statistics = WSGIMiddleware(create_app())


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({{"type": "lifespan.startup.complete"}})
        await send({{"type": "lifespan.shutdown.complete"}})
    elif scope["path"] == "/hit":
        stats.incr("site", "hits")
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": str(os.getpid()).encode()}})
    else:
        await statistics(scope, receive, send)


print("site loaded", file=sys.stderr, flush=True)
"""

#: The same within the middleware of the package, which leaves the block when the server shuts down.
LIFESPAN = (
    ASGI
    + """
from shmstats.integrations.asgi import ShmStatsMiddleware
app = ShmStatsMiddleware(app)
"""
)

SANIC = """
import os
import shlex
from sanic import Sanic
from sanic.response import json, text
from shmstats import stats
{prelude}
app = Sanic("site")


@app.get("/hit")
async def hit(request):
    stats.incr("site", "hits")
    return text(str(os.getpid()))


@app.get("/stats")
async def statistics(request):
    return json({{"simple": {{"site": {{"hits": stats.get("site", "hits")}}}}}})
"""

TORNADO = """
import asyncio
import os
import shlex
import sys
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.web import Application, FallbackHandler, RequestHandler
from tornado.wsgi import WSGIContainer
from shmstats import stats
from shmstats.web import create_app
{prelude}

class Hit(RequestHandler):
    def get(self):
        stats.incr("site", "hits")
        self.write(str(os.getpid()))


async def serve(sockets):
    statistics = WSGIContainer(create_app())
    server = HTTPServer(Application([("/hit", Hit), (".*", FallbackHandler, {{"fallback": statistics}})]))
    server.add_sockets(sockets)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sockets = bind_sockets(int(sys.argv[1]), "127.0.0.1")
    fork_processes(3)
    asyncio.run(serve(sockets))
"""

#: A process for each request.
WERKZEUG = (
    WSGI
    + """
if __name__ == "__main__":
    from werkzeug.serving import run_simple
    run_simple("127.0.0.1", int(sys.argv[1]), app, processes=3)
"""
)

#: Three processes of mod_wsgi, in a configuration that holds nothing else.
APACHE = """
ServerRoot {directory}
ServerName localhost
PidFile {directory}/apache.pid
ErrorLog {directory}/apache.log
Listen 127.0.0.1:{port}
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule wsgi_module {mod_wsgi}
StartServers 3
MinSpareServers 3
MaxSpareServers 3
MaxRequestWorkers 3
WSGISocketPrefix {directory}/wsgi
WSGIScriptAlias / {directory}/site_under_test.py
WSGICallableObject app
<Directory />
    Require all granted
</Directory>
"""

#: Counts before the server forks, so the process that imports the site attaches.
AT_IMPORT = 'stats.incr("import", "total")\n'


#: Reloads if there is no signal for it: the file of the site is written again.
TOUCH = 0


@dataclass(frozen=True)
class Host:
    """How to run a server.

    Attributes:
        command: its words; ``{port}``, ``{bin}``, ``{packages}``, ``{directory}`` and ``{recycle}`` are filled in.
        site: the application that it serves.
        workers: how many processes serve.
        kill: whether a killed worker is replaced while the others continue to serve.
        reload: the signal that replaces all workers, or `TOUCH`; None: it has none.
        resets: whether a reload resets connections, so that no request may be sent meanwhile.
        recycle: the option that replaces a worker after ten requests; empty: it has none.
        buffered: whether buffered mode loses nothing at an orderly stop and when a worker is recycled.
        stacks: whether each worker shows its stacks.
        at_import: whether the site counts before the server forks.
        keeps_block: whether a process ends without exit functions, so that the block stays in shared memory after a
            stop, for the next start: the master of uWSGI, where it has the block, and its workers with gevent, and
            workers of uvicorn. None: it may.
        ready: the line that each worker logs when it is ready, if the first answer does not show that.
        needs: a file or module that it needs, and that may be missing.
        is_older: whether it needs an older version, which a separate run installs.
        config: a file that the command names as ``{directory}/server.conf``, filled in as the command is.
        stops_group: whether SIGTERM is sent to all processes, as by systemd, because the first stops no other.
        quick: whether it belongs to the everyday run.
    """

    command: str
    site: str = WSGI
    workers: int = 3
    kill: bool = True
    reload: int | None = None
    resets: bool = False
    recycle: str = ""
    buffered: bool = True
    stacks: bool = True
    at_import: bool = False
    keeps_block: bool | None = False
    ready: str = ""
    needs: str = ""
    is_older: bool = False
    config: str = ""
    stops_group: bool = False
    quick: bool = False

    @property
    def is_there(self) -> bool:
        """Whether the needed file or module is installed."""
        if self.needs.startswith("/"):
            return Path(self.needs).exists()
        if not self.needs:
            return True
        try:
            return importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:
            return False


_UWSGI = (
    "uwsgi --plugin {plugin} --http-socket 127.0.0.1:{{port}} --pythonpath {{packages}} --need-app"
    " --wsgi-file site_under_test.py --callable app --master --processes 3 {options} {{recycle}}"
    " --hook-master-start 'unix_signal:15 gracefully_kill_them_all'"
)
_UWSGI_RECYCLE = "--max-requests 10 --min-worker-lifetime 1"
#: Debian's are for its own Python: with another the packages of this one do not fit.
_UWSGI_PLUGIN = "/usr/lib/uwsgi/plugins/python{}{}_plugin.so".format(*sys.version_info)
_UWSGI_GEVENT = "/usr/lib/uwsgi/plugins/gevent_python{}{}_plugin.so".format(*sys.version_info)


def uwsgi(options: str, **more: Any) -> Host:
    """UWSGI as Debian packages it."""
    command = _UWSGI.format(plugin=_UWSGI_PLUGIN, options=options)
    usual = {"needs": _UWSGI_PLUGIN, "reload": signal.SIGHUP, "recycle": _UWSGI_RECYCLE}
    return Host(command, **{**usual, **more})


def gunicorn(options: str, needs: str = "", **more: Any) -> Host:
    """Gunicorn with a class of workers."""
    command = (
        f"{{bin}}/gunicorn --bind 127.0.0.1:{{port}} --workers 3 --no-control-socket {options} {{recycle}}"
        " site_under_test:app"
    )
    usual = {"needs": needs, "reload": signal.SIGHUP, "recycle": "--max-requests 10", "ready": "site loaded"}
    return Host(command, **{**usual, **more})


#: Apache refuses to serve as root, and tests in a container are.
_NOT_ROOT = "unshare --user --map-user 1000 --map-group 1000 " if os.geteuid() == 0 else ""
_MOD_WSGI = "/usr/lib/apache2/modules/mod_wsgi.so-{}.{}".format(*sys.version_info)
_PYTHON_PATH = f"{{packages}}:{ROOT}:{{directory}}"


def mod_wsgi(config: str, **more: Any) -> Host:
    """Apache with mod_wsgi, as Debian packages them."""
    command = f"{_NOT_ROOT}/usr/sbin/apache2 -f {{directory}}/server.conf -DFOREGROUND"
    return Host(command, config=APACHE + config, needs=_MOD_WSGI, reload=signal.SIGUSR1, **more)


_DAEMON = f"""
WSGIDaemonProcess site processes=3 threads=2 home={{directory}} python-path={_PYTHON_PATH} {{recycle}}
WSGIProcessGroup site
"""
_GLOBAL = "WSGIApplicationGroup %{{GLOBAL}}\n"

#: Seconds that it waits for a worker that was killed while it was asked whether it is alive.
_UVICORN = (
    "{bin}/uvicorn --host 127.0.0.1 --port {port} --workers 3 --timeout-worker-healthcheck 15 site_under_test:app"
)
_GRANIAN = "{bin}/granian --host 127.0.0.1 --port {port} --workers 3 --respawn-failed-workers site_under_test:app"

#: The servers, by their names in the table of docs/deployment.md.
HOSTS = {
    "gunicorn, sync": gunicorn("--worker-class sync"),
    "gunicorn, gthread": gunicorn("--worker-class gthread --threads 3"),
    "gunicorn, gevent": gunicorn("--worker-class gevent", "gevent"),
    "gunicorn, gevent_pywsgi": gunicorn("--worker-class gevent_pywsgi", "gevent", recycle=""),
    "gunicorn, tornado": gunicorn("--worker-class tornado", "tornado", recycle=""),
    "gunicorn, asgi": gunicorn("--worker-class asgi", "gunicorn.workers.gasgi", site=ASGI, recycle=""),
    "gunicorn 22 to 25, eventlet": gunicorn(
        "--worker-class eventlet", "gunicorn.workers.geventlet", resets=True, is_older=True
    ),
    "uWSGI": uwsgi("--enable-threads"),
    "uWSGI, counts at import": uwsgi("--enable-threads", at_import=True, keeps_block=True, quick=True),
    "uWSGI, threads": uwsgi("--threads 3", at_import=True, keeps_block=True, recycle=""),
    "uWSGI, lazy-apps": uwsgi("--enable-threads --lazy-apps", ready="WSGI app 0"),
    "uWSGI, cheaper": uwsgi("--enable-threads --cheaper 1", kill=False),
    "uWSGI, gevent": uwsgi(
        f"--plugin {_UWSGI_GEVENT} --gevent 20 --gevent-monkey-patch",
        buffered=False,
        keeps_block=True,
        needs=_UWSGI_GEVENT,
    ),
    "uWSGI without --enable-threads": uwsgi("", at_import=True, keeps_block=True, buffered=False, stacks=False),
    "uvicorn --workers": Host(_UVICORN, ASGI, reload=signal.SIGHUP, buffered=False, keeps_block=True),
    "uvicorn --workers, with the middleware": Host(_UVICORN, LIFESPAN, reload=signal.SIGHUP),
    "hypercorn": Host(
        "{bin}/hypercorn --bind 127.0.0.1:{port} --workers 3 {recycle} site_under_test:app",
        ASGI,
        kill=False,
        recycle="--max-requests 10",
        needs="hypercorn",
    ),
    "granian, ASGI": Host(
        f"{_GRANIAN} --interface asgi", ASGI, reload=signal.SIGHUP, ready="Started worker", needs="granian"
    ),
    "granian, WSGI": Host(
        f"{_GRANIAN} --interface wsgi", reload=signal.SIGHUP, ready="Started worker", needs="granian"
    ),
    "mod_wsgi, daemon": mod_wsgi(_DAEMON + _GLOBAL, recycle="maximum-requests=10"),
    "mod_wsgi, daemon with a sub-interpreter": mod_wsgi(_DAEMON, recycle="maximum-requests=10"),
    "mod_wsgi, embedded": mod_wsgi(
        f"WSGIPythonPath {_PYTHON_PATH}\n{_GLOBAL}{{recycle}}\n", recycle="MaxConnectionsPerChild 10"
    ),
    "Sanic": Host(
        "{bin}/sanic site_under_test:app --host 127.0.0.1 --port {port} --workers 3 --no-motd",
        SANIC,
        kill=False,
        ready="Worker ready",
        needs="sanic",
        stops_group=True,
    ),
    "Tornado": Host("{bin}/python site_under_test.py {port}", TORNADO, needs="tornado", stops_group=True),
    "waitress": Host(
        "{bin}/waitress-serve --listen 127.0.0.1:{port} site_under_test:app", workers=1, kill=False, needs="waitress"
    ),
    "flask run": Host("{bin}/flask --app site_under_test run --port {port}", workers=1, kill=False),
    "flask run --reload": Host(
        "{bin}/flask --app site_under_test run --port {port} --reload",
        workers=1,
        kill=False,
        reload=TOUCH,
        buffered=False,
        keeps_block=None,
    ),
    "Werkzeug, processes": Host(
        "{bin}/python site_under_test.py {port}", WERKZEUG, workers=0, kill=False, buffered=False, keeps_block=True
    ),
    "daphne": Host(
        "{bin}/daphne -b 127.0.0.1 -p {port} site_under_test:app", ASGI, workers=1, kill=False, needs="daphne"
    ),
}


class Running:
    """A server with a site, started and ended by process group."""

    def __init__(self, host: Host, directory: Path, recycles: bool = False, **stats: Any) -> None:
        self.host = host
        self._recycle = host.recycle if recycles else ""
        self.directory = directory
        self.log = directory / "server.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        site = host.site.format(prelude=AT_IMPORT if host.at_import else "")
        (directory / "site_under_test.py").write_text(site)
        (directory / "server.conf").write_text(self._filled(host.config))
        settings = {"path": {"data": str(directory / "data")}, "stats": {"capacity": 1024, "max_workers": 8, **stats}}
        (directory / "shmstats.yml").write_text(yaml.safe_dump(settings))

    def start(self) -> Running:
        """Start it, and wait until it answers."""
        words = self._filled(self.host.command)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHMSTATS")}
        paths = (str(ROOT), str(self.directory), os.environ.get("PYTHONPATH"))
        environment |= {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                shlex.split(words), cwd=self.directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._answers, f"an answer of {words}")
        self._started = 0
        self._wait_for(self.host.workers)
        return self

    def _filled(self, text: str) -> str:
        return text.format(
            port=self.port,
            bin=Path(sys.executable).parent,
            packages=sysconfig.get_paths()["purelib"],
            directory=self.directory,
            recycle=self._recycle,
            mod_wsgi=_MOD_WSGI,
        )

    def _wait_for(self, more: int) -> None:
        """Wait until so many more workers have logged that they are ready: some servers lose an earlier signal."""
        self._started += more
        ready, started = self.host.ready, self._started
        wait_until(lambda: not ready or self.log.read_text().count(ready) >= started, f"{started} times {ready!r}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return self.get("/nothing-here")[0] == 404
        except (OSError, http.client.HTTPException):
            return False

    @property
    def pid(self) -> int:
        """The pid of the process that was started."""
        assert self._process is not None
        return self._process.pid

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one request, on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=BOUND)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def hit(self, number: int) -> set[int]:
        """Send this many requests, one after another; return the pids that answered."""
        found = set()
        for _ in range(number):
            status, body = self.get("/hit")
            assert status == 200, body
            found.add(int(body))
        return found

    def total(self) -> int:
        """The number of requests that /stats shows."""
        status, body = self.get("/stats")
        assert status == 200, body
        return int(json.loads(body)["simple"].get("site", {}).get("hits", 0))

    def tell_stacks(self) -> set[int]:
        """The pids of the processes that ``shmstats stacks`` shows with stacks."""
        told = read_stacks(self.directory / "data")
        return {each["pid"] for each in told if "no answer" not in str(each["stacks"])}

    def reload(self) -> int:
        """Replace all workers; return the number of requests it took until no old worker answered."""
        before = children(self.pid)
        assert self.host.reload is not None
        if self.host.reload == TOUCH:
            site = self.directory / "site_under_test.py"
            site.write_text(site.read_text())
            wait_until(lambda: children(self.pid) - before, "another process")
        else:
            os.kill(self.pid, self.host.reload)
        if self.host.resets:
            wait_until(lambda: not children(self.pid) & before, "the end of the workers of before")
        wait_until(self._answers, "an answer during the reload")
        self._wait_for(self.host.workers)
        return self._hits_until(lambda pid: pid not in before, in_a_row=10)

    def kill_a_worker(self) -> int:
        """Kill an answering process and wait for its replacement; return the number of requests until then."""
        victim = next(iter(self.hit(1)))
        alive = children(self.pid) - {victim}
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in children(self.pid), "the end of the killed worker")
        wait_until(lambda: children(self.pid) - alive, "another worker")
        self._wait_for(1)
        wait_until(self._answers, "an answer after the kill")
        return 1

    def _hits_until(self, is_wanted: Callable[[int], bool], in_a_row: int) -> int:
        """Send requests until so many answers in a row are from accepted processes; return their number."""
        number = row = 0
        end = time.monotonic() + 2 * BOUND
        while row < in_a_row:
            assert time.monotonic() < end, f"after {number} requests other processes still answer"
            time.sleep(0.0 if row else 0.1)  # leave the processors to the starting workers
            (pid,) = self.hit(1)
            number += 1
            row = row + 1 if is_wanted(pid) else 0
        return number

    def settle(self) -> None:
        """Wait until no worker has just been started: some servers lose a stop that comes while one loads the site."""
        workers = psutil.Process(self.pid).children
        wait_until(
            lambda: all(time.time() - worker.create_time() > _SETTLED for worker in workers()), "workers to load"
        )
        wait_until(self._answers, "an answer after that")

    def stop(self) -> None:
        """Stop in an orderly way."""
        if self._process is not None and self._process.poll() is None:
            if self.host.stops_group:
                os.killpg(self.pid, signal.SIGTERM)
            else:
                self._process.terminate()
            self._process.wait(BOUND)
            wait_until(lambda: not group_lives(self.pid), "the end of the group")

    def __enter__(self) -> Running:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.stop()
        finally:
            if group_lives(self.pid):
                os.killpg(self.pid, signal.SIGKILL)
                assert self._process is not None
                self._process.wait(BOUND)


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def remove_block(host: Host, directory: Path) -> None:
    """Adopt, save and remove a block without processes, as the next process does."""
    if host.keeps_block is not False:
        command = [sys.executable, "-m", "shmstats", "reset", "site", "--data", str(directory / "data")]
        subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True, timeout=BOUND)
