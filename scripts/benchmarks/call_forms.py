"""Every documented form of a counting call: its code, and its limit."""

from __future__ import annotations

from typing import NamedTuple


class Form(NamedTuple):
    """A form of a call.

    Attributes:
        code: a statement; its names are those of `benchmarks.peers.ours_forms`.
        beside: the name of the form that it may take three times as long as; empty for none.
        limit: ns that it may take instead; 0 for any: such a form is rare, and is only shown.
    """

    code: str
    beside: str = ""
    limit: int = 0


_COUNT, _LABELS, _TIMER = "stats.incr(c, m, 1)", "stats.incr(c, m, labels={…})", "with stats.timer(c, m)"
_GAUGE, _TIMING, _HANDLE = "stats.gauge(c, m, 1.5)", "stats.timing(c, m, 2.5)", "counter.incr()"
_SET, _GET = "labelled.labels(a, b).incr()", "stats.get(c, m)"

_AB = "labels={'a': 'x', 'b': 'y'}"

#: By name.
FORMS = {
    _COUNT: Form("stats.incr('c', 'm', 1)"),
    "stats.incr(c, m)": Form("stats.incr('c', 'm')", _COUNT),
    "stats.incr(c, m, n=1)": Form("stats.incr('c', 'm', n=1)", _COUNT),
    "stats.incr(c, m, -1)": Form("stats.incr('c', 'down', -1)", _COUNT),
    "stats.incr(c, m, 1), stats being local": Form("local.incr('c', 'm', 1)", _COUNT),
    "shmstats.incr(c, m, 1)": Form("shmstats.incr('c', 'm', 1)", _COUNT),
    "shmstats.stats.incr(c, m, 1)": Form("shmstats.stats.incr('c', 'm', 1)", _COUNT),
    "incr = stats.incr; incr(c, m, 1)": Form("incr('c', 'm', 1)", _COUNT),
    "stats.incr(category=c, metric=m)": Form("stats.incr(category='c', metric='m')", _COUNT),
    "stats.incr(c, m, 1) of a gauge": Form("stats.incr('c', 'g', 1)", _COUNT),
    "stats.decr(c, m)": Form("stats.decr('c', 'down')", _COUNT),
    "stats.decr(c, m, n=1)": Form("stats.decr('c', 'down', n=1)", _COUNT),
    _GAUGE: Form("stats.gauge('c', 'g', 1.5)", _COUNT),
    "stats.gauge(c, m, value=1.5)": Form("stats.gauge('c', 'g', value=1.5)", _GAUGE),
    "stats.absolute(c, m, 5)": Form("stats.absolute('c', 'g', 5)", _GAUGE),
    "stats.absolute(c, m, value=5)": Form("stats.absolute('c', 'g', value=5)", _GAUGE),
    _TIMING: Form("stats.timing('c', 't', 2.5)", _COUNT),
    "stats.timing(c, m, milliseconds=2)": Form("stats.timing('c', 't', milliseconds=2)", _TIMING),
    "stats.timestamp(c, m)": Form("stats.timestamp('c', 'w')", _COUNT),
    _TIMER: Form("with stats.timer('c', 't2'): pass", limit=300),
    "timer = stats.timer(c, m); with timer": Form("with timer: pass", _TIMER),
    "@stats.timer(c, m)": Form("timed()", _TIMER),
    _LABELS: Form(f"stats.incr('c', 'l', {_AB})", limit=100),
    "stats.incr(c, m, labels=kept)": Form("stats.incr('c', 'l', labels=kept)", limit=100),
    "stats.incr(c, m, labels={…}), of an int": Form("stats.incr('c', 'l', labels={'a': 'x', 'b': 200})", _LABELS),
    "stats.decr(c, m, labels={…})": Form(f"stats.decr('c', 'dl', {_AB})", _LABELS),
    "stats.gauge(c, m, 1.5, labels={…})": Form(f"stats.gauge('c', 'gl', 1.5, {_AB})", _LABELS),
    "stats.absolute(c, m, 5, labels={…})": Form(f"stats.absolute('c', 'gl', 5, {_AB})", _LABELS),
    "stats.timing(c, m, 2.5, labels={…})": Form(f"stats.timing('c', 'tl', 2.5, {_AB})", _LABELS),
    "stats.timestamp(c, m, labels={…})": Form(f"stats.timestamp('c', 'wl', {_AB})", _LABELS),
    "with stats.timer(c, m, labels={…})": Form(
        f"with stats.timer('c', 'tl2', {_AB}): pass", _TIMER
    ),
    "stats.counter(c, m).incr()": Form("stats.counter('c', 'm').incr()", _COUNT),
    "stats.counter(c, m, labels={…}).incr()": Form(f"stats.counter('c', 'l', {_AB}).incr()", _LABELS),
    "stats.gauge(c, m).set(1.5)": Form("stats.gauge('c', 'g').set(1.5)", _GAUGE),
    "stats.histogram(c, m).observe(2.5)": Form("stats.histogram('c', 't').observe(2.5)", _TIMING),
    _HANDLE: Form("counter.incr()"),
    "counter.incr(2)": Form("counter.incr(2)", _HANDLE),
    "counter.incr(n=2)": Form("counter.incr(n=2)", _HANDLE),
    "counter.decr()": Form("counter.decr()", _HANDLE),
    "gauge.set(1.5)": Form("gauge.set(1.5)", _HANDLE),
    "gauge.incr()": Form("gauge.incr()", _HANDLE),
    "gauge.decr(n=1)": Form("gauge.decr(n=1)", _HANDLE),
    "gauge.incr(), of each worker": Form("in_progress.incr()", _HANDLE),
    "histogram.observe(2.5)": Form("histogram.observe(2.5)", _HANDLE),
    "histogram.observe(512), of given buckets": Form("sized.observe(512)", _HANDLE),
    _SET: Form("labelled.labels('x', 'y').incr()", limit=40),
    "labelled.labels(a=a, b=b).incr()": Form("labelled.labels(a='x', b='y').incr()", _SET),
    "labelled.labels(a, 200).incr()": Form("labelled.labels('x', 200).incr()", _SET),
    _GET: Form("stats.get('c', 'm')", limit=5000),
    "stats.get(c, m, labels={…})": Form(f"stats.get('c', 'l', {_AB})", limit=5000),
    "counter.value": Form("counter.value", _GET),
    "stats.incr(c, m, labels=…), no dict": Form("stats.incr('c', 'l', labels=mapping)"),
    "stats.counter(c, m, labelnames=…).labels(a, b).incr()": Form(
        "stats.counter('c', 'p', labelnames=('a', 'b')).labels('x', 'y').incr()"
    ),
    "stats.timestamp(c, m, moment)": Form("stats.timestamp('c', 'w2', moment)"),
    "stats.absolute(c, m, 5) of a counter": Form("stats.absolute('c', 'total', 5)"),
    "stats.incr(c, m, exemplar={…})": Form("stats.incr('c', 'e', exemplar={'trace': '1'})"),
    "stats.info(c, m, {…})": Form("stats.info('c', 'i', {'version': '1'})"),
    "stats.state(c, m, state)": Form("stats.state('c', 's', 'on')"),
    "stats.get(c, m) of a histogram": Form("stats.get('c', 't')"),
    "stats.get_timestamp(c, m)": Form("stats.get_timestamp('c', 'w')"),
}  # fmt: skip
