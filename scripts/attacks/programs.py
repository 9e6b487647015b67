"""Programs that attack their own statistics: each knows what it counts, and compares at the end.

A program is run with a directory, seconds and a seed, and prints JSON: the number of its attacks, of the
operations that it counted, and of those that are lost, or doubled. It prints other problems on its standard
error.
"""

from __future__ import annotations

PRELUDE = """
import json, os, random, signal, subprocess, sys, threading, time
import shmstats
from shmstats import stats
from shmstats.block import identify

TOP, SECONDS, SEED = sys.argv[1], float(sys.argv[2]), sys.argv[3]
chance = random.Random(SEED)
END = time.monotonic() + SECONDS
DIRECTORIES = [f"{TOP}/data {number}" for number in range(3)]
sys.setswitchinterval(0.0001)

def config(directory=DIRECTORIES[0], **more):
    stats = {"capacity": 4096, "max_workers": 8, "snapshot_interval_ms": 100, **more}
    return {"path": {"data": directory}, "stats": stats}

def running():
    return time.monotonic() < END

def start(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return threads

def finish(threads):
    for thread in threads:
        thread.join()

def report(attacks, expected, found, operations=None):
    shmstats.close()
    print(json.dumps({
        "attacks": attacks, "operations": expected if operations is None else operations,
        "lost": max(0, expected - found), "doubled": max(0, found - expected),
    }))
"""

#: Threads count, in every way, while another one leaves, attaches, and goes to other directories.
INIT_AND_CLOSE = """
for directory in DIRECTORIES:
    os.makedirs(directory)
shmstats.init(config())
counted = [0] * 3
def count(number):
    handle = stats.counter("c", "m")
    series = stats.counter("c", "labelled", labelnames=("thread",))
    while running():
        for _ in range(100):
            stats.incr("c", "m")
            handle.incr()
            handle.incr()
            series.labels(str(number)).incr()
        counted[number] += 400
threads = start(*(lambda number=number: count(number) for number in range(3)))
attacks = 0
while running():
    if chance.randrange(4) == 0:
        shmstats.close()
    else:
        shmstats.init(config(chance.choice(DIRECTORIES)))
    attacks += 1
    time.sleep(chance.random() * 0.01)
finish(threads)
found = 0
for directory in DIRECTORIES:
    shmstats.init(config(directory))
    found += stats.get("c", "m") + sum(stats.get("c", "labelled", labels={"thread": str(n)}) for n in range(3))
report(attacks, sum(counted), found)
"""

#: The data directory is a link that is changed while a signal handler counts in the middle of counting.
LINK = """
for directory in DIRECTORIES:
    os.makedirs(directory)
link = f"{TOP}/link"
os.symlink(DIRECTORIES[0], link)
shmstats.init(config(link))
stats.incr("c", "m", 0)
counted = handled = attacks = 0
def handle(*_):
    global handled
    stats.incr("c", "m")
    stats.incr("c", f"h{handled % 50}")
    stats.remove("c", f"h{(handled + 25) % 50}")
    handled += 1
def point():
    global attacks
    while running():
        os.symlink(chance.choice(DIRECTORIES), f"{link}.new")
        os.replace(f"{link}.new", link)
        attacks += 1
        time.sleep(0.001)
threads = start(point)
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
rounds = 0
while running():
    for _ in range(100):
        stats.incr("c", "m")
    counted += 100
    rounds += 1
    stats.incr("c", f"n{rounds % 50}")
    stats.remove("c", f"n{(rounds + 25) % 50}")
signal.setitimer(signal.ITIMER_REAL, 0)
finish(threads)
report(attacks, counted + handled, stats.get("c", "m"), counted + 2 * rounds + 3 * handled)
"""

#: A name is removed and added again while others read it, and others take its cells: each value that is read is one
#: that it had between the changes done before the call and those begun before its end.
COME_AND_GO = """
import mmap
shmstats.init(config())
BEGUN, DONE = 0, 1
changes = memoryview(mmap.mmap(-1, 4096)).cast("Q")
reads = wrong = 0
def change():
    while running():
        changes[BEGUN] += 1
        (stats.incr if changes[BEGUN] % 8 else stats.remove)("c", "small")
        changes[DONE] += 1
        if changes[DONE] % 8 == 0:
            stats.incr("c", f"large {chance.randrange(3)}", 1000)
            stats.remove("c", f"large {chance.randrange(3)}")
def read(call):
    global reads, wrong
    done = changes[DONE]
    value = call()
    begun = changes[BEGUN]
    reads += 1
    if begun - done < 7 and value not in {number % 8 for number in range(done, begun + 1)}:
        wrong += 1
        print(f"{value} after {done} changes to {begun}", file=sys.stderr)
def look():
    while running():
        read(lambda: stats.get("c", "small"))
        read(lambda: stats.snapshot().get("c", {}).get("small", 0))
def disturb():
    while running():
        stats.incr("c", f"large {chance.randrange(3)}", 1000)
        stats.remove("c", f"large {chance.randrange(3)}")
pid = os.fork()
if pid == 0:
    change()
    shmstats.close()
    os._exit(0)
threads = start(look, look, disturb)
finish(threads)
assert os.waitpid(pid, 0)[1] == 0
report(changes[DONE], 0, wrong, changes[DONE] + reads)
"""

#: Signal handlers do anything, in the middle of anything.
HANDLERS = """
shmstats.init(config())
counted = handled = attacks = 0
def anything(prefix, number):
    name = f"{prefix}{number % 40}"
    action = chance.randrange(8)
    if action == 0:
        stats.remove("c", name)
    elif action == 1:
        stats.gauge("gauges", name, 1.5)
    elif action == 2:
        stats.timing("timings", name, 3)
    elif action == 3:
        stats.get("c", name)
    elif action == 4:
        stats.snapshot()
    elif action == 5:
        stats.reset("timings")
    elif action == 6 and chance.randrange(50) == 0:
        shmstats.close()
    else:
        stats.incr("c", name, labels={"a": name})
depth = 0
def again():
    signal.setitimer(signal.ITIMER_REAL, 0.0001 + chance.random() * 0.0015)
def handle(*_):
    global handled, depth
    handled += 1
    depth += 1
    if depth < 4:  # it may come within itself, but not for ever
        again()
    stats.incr("total", "m")
    anything("h", handled)
    depth -= 1
    if not depth:
        again()
signal.signal(signal.SIGALRM, handle)
again()
rounds = 0
while running():
    for _ in range(20):
        stats.incr("total", "m")
    counted += 20
    rounds += 1
    anything("n", rounds)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
report(handled, counted + handled, stats.get("total", "m"), counted + rounds + 2 * handled)
"""

#: Forks while threads attach, leave and count: each child counts for itself.
FORKS = """
shmstats.init(config())
counted = [0, 0]
def count(number):
    while running():
        for _ in range(2000):
            stats.incr("c", "m")
        counted[number] += 2000
        time.sleep(0.0005)
def leave():
    while running():
        time.sleep(chance.random() * 0.02)
        shmstats.close()
threads = start(lambda: count(0), lambda: count(1), leave)
children = 0
while running():
    pid = os.fork()
    if pid == 0:
        for _ in range(10):
            stats.incr("c", "m")
        if children % 2:
            shmstats.close()
        os._exit(0)
    children += 1
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
finish(threads)
report(children, sum(counted) + 10 * children, stats.get("c", "m"))
"""

#: A worker calls exec in every way: the last one to leave saves, and removes the block.
EXEC = """
import shutil
WAYS = [["sleep", "30"], ["setarch", "-R", "sleep", "30"]]
if os.geteuid() == 0:
    WAYS += [["unshare", "--time", "--boottime", "9999", "--fork", "sleep", "30"]]
    WAYS += [["unshare", "--pid", "--fork", "sleep", "30"], ["setpriv", "--reuid", "65534", "sleep", "30"]]
WAYS = [way for way in WAYS if shutil.which(way[0])]
attacks = expected = 0
while running():
    for way in WAYS:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            shmstats.init(config())
            stats.incr("c", "m", 3)
            os.execvp(way[0], way)
        while b"sleep" not in open(f"/proc/{pid}/cmdline", "rb").read():
            time.sleep(0.001)
        shmstats.init(config())
        expected += 3
        found = stats.get("c", "m")
        shmstats.close()
        if os.path.exists(identify(DIRECTORIES[0]).segment):
            sys.exit(f"the block stays after {way}")
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        attacks += 1
report(attacks, expected, found)
"""

#: The block's file is removed repeatedly, other processes create a new one, and all continue in that.
REMOVED = """
import logging
logging.disable()
shmstats.init(config())
stats.incr("c", "m", 0)
segment = identify(DIRECTORIES[0]).segment
attacks = counted = others = 0
def count():
    global counted
    while running():
        stats.incr("c", "m")
        stats.incr("names", f"n{counted % 30}")
        stats.remove("names", f"n{(counted + 15) % 30}")
        counted += 1
threads = start(count)
while running():
    before = stats.shared.attach()
    os.unlink(segment)
    attacks += 1
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        for _ in range(5):
            stats.incr("c", "m")
        os.read(told, 1)
        stats.incr("c", "m")
        shmstats.close()
        os._exit(0)
    while stats.shared.attach() is before:
        time.sleep(0.005)
    os.close(tell)
    os.close(told)
    assert os.waitpid(pid, 0)[1] == 0
    others += 6
finish(threads)
shmstats.close()
shmstats.init(config())
report(attacks, counted + others, stats.get("c", "m"), 3 * counted + others)
"""

#: Descriptors run out and come back while processes attach, count and leave.
DESCRIPTORS = """
import logging, resource
logging.disable()
shmstats.init(config())
stats.incr("c", "m", 0)
stats.snapshot()  # imports what reads, which takes descriptors
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
attacks = counted = 0
def count():
    global counted
    handle, rounds = stats.counter("c", "m"), 0
    while running():
        for _ in range(500):
            stats.incr("c", "m")
            handle.incr()
        counted += 1000
        rounds += 1
        stats.incr("c", f"n{rounds % 500}")
threads = start(count)
while running():
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    time.sleep(chance.random() * 0.01)
    try:
        stats.snapshot()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    time.sleep(chance.random() * 0.005)
    attacks += 1
finish(threads)
report(attacks, counted, stats.get("c", "m"))
"""

#: Names that a terminal or a spreadsheet would interpret, in every format.
ESCAPES = """
import io, contextlib
from shmstats.cli import main
CONTROLS = ["\\x1b[2J", "\\x1b]0;x\\x07", "\\x9b31m", "\\u202e", "\\u2066", "\\x08", "\\r", "\\n", "\\x7f", "\\x85"]
PIECES = [*CONTROLS, "=1+1", "@x", "a", "é", ",", '"']
shmstats.init(config())
attacks = 0
while running():
    text = "".join(chance.choices(PIECES, k=4))
    for call in (
        lambda: stats.incr("c" + text, "m"), lambda: stats.incr("c", text),
        lambda: stats.timing("c", "t", 1, labels={"l": text}),
        lambda: stats.declare("c", f"d{attacks % 100}", kind="gauge", help=text),
    ):
        try:
            call()
        except ValueError:  # such a name is refused, which is as good
            pass
    attacks += 1
    if attacks % 20:
        continue
    for words in (["info"], *(["dump", "--format", form] for form in ("json", "csv", "prometheus", "table"))):
        out = io.StringIO()
        sys.argv = ["shmstats", *words, "--data", DIRECTORIES[0]]
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main()
        ends = "\\r\\n" if "csv" in words else "\\n"
        controls = {*map(chr, range(32)), *map(chr, range(127, 160)), "\\u202e", "\\u2066"}
        obeyed = [c for c in out.getvalue() if c in controls and c not in ends]
        cells = [line for line in out.getvalue().splitlines() if "csv" in words and line.lstrip('"')[:1] in "=@"]
        if obeyed or [cell for cell in cells if cell]:
            sys.exit(f"{words} writes {obeyed} {cells}")
    shmstats.close()
report(attacks, 0, 0, 4 * attacks)
"""

PROGRAMS = {
    "init and close while threads count": INIT_AND_CLOSE,
    "the data directory is pointed elsewhere": LINK,
    "a name is removed and added while it is read": COME_AND_GO,
    "signal handlers do anything": HANDLERS,
    "forks while threads attach and leave": FORKS,
    "workers become other programs": EXEC,
    "the block's file is removed": REMOVED,
    "no descriptors, and some again": DESCRIPTORS,
    "names that a terminal would obey": ESCAPES,
}
