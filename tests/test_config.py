"""Configuration files: what they may contain, what is refused, and where they are found."""

import datetime
import os
import pickle
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from shmstats.config import ConfigError, Settings, load

SECTIONS = ("path", "stats", "api", "statsd", "push", "history", "prometheus")

BOOL = "true or false"
ADDRESS = "'host:port' or '[ipv6]:port' (port 0 to 65535), or 'unix:/path' (at most 107 bytes of path)"
TOKEN = "null, or one or more printable ASCII characters without blanks"
PATH = "a non-empty path without NUL, where a ~user at its start must be a known one"
HOST = "a host name or an address, not empty, without blanks or control characters"
NAMESPACE = "printable ASCII characters without blanks and : | @ #, or ''"

URL = "'http://host/path' or 'https://host/path', printable ASCII without blanks, user, password or fragment"
LABELS = "a mapping of label names (letters, digits and _; not instance, le, quantile or __...) to quoted texts"
HEADERS = "a mapping of header names (not Host, Connection, Content-... or the like) to quoted ASCII texts"

HIDDEN_STR = "a str, which is not shown"


def a(kind: str) -> str:
    """The name of a type with its article."""
    return f"{'an' if kind == 'int' else 'a'} {kind}"


@dataclass
class Key:
    """A row of the table of keys; ``refused`` maps each value to the words that must describe it."""

    name: str
    default: Any
    allowed: str
    accepted: list[Any]
    refused: list[tuple[Any, str]]


def switch(name: str, default: bool) -> Key:
    refused = [
        (0, "0 (int)"),
        (1, "1 (int)"),
        (1.0, "1.0 (float)"),
        ("true", "'true' (str)"),
        ("", "'' (str)"),
        (None, "null (NoneType)"),
        ([True], "a value of type list"),
        ({"a": True}, "a value of type dict"),
    ]
    return Key(name, default, BOOL, [True, False], refused)


def integer(name: str, default: int, low: int, high: int) -> Key:
    refused = [
        (low - 1, f"{low - 1} (int)"),
        (high + 1, f"{high + 1} (int)"),
        (-high, f"{-high} (int)"),
        (10**5000, "an integer of 16610 bits (int)"),
        (True, "True (bool)"),
        (False, "False (bool)"),
        (float(low), f"{float(low)!r} (float)"),
        (float("nan"), "nan (float)"),
        (float("inf"), "inf (float)"),
        (str(low), f"'{low}' (str)"),
        ("", "'' (str)"),
        (None, "null (NoneType)"),
        ([low], "a value of type list"),
        ({}, "a value of type dict"),
    ]
    return Key(name, default, f"an integer from {low} to {high}", [low, default, high], refused)


def text(name: str, default: Any, allowed: str, accepted: list[str], refused: list[str]) -> Key:
    wrong_types: list[tuple[Any, str]] = [
        (True, "True (bool)"),
        (False, "False (bool)"),
        (8080, "8080 (int)"),
        (1.5, "1.5 (float)"),
        (datetime.date(2024, 1, 31), "a value of type date"),
        (None, "null (NoneType)"),
        (["x"], "a value of type list"),
        ({"x": "y"}, "a value of type dict"),
    ]
    return Key(name, default, allowed, accepted, wrong_types + [(value, f"{value[:60]!r}") for value in refused])


def optional(name: str, allowed: str, accepted: list[str], refused: list[str], *, hidden: bool = False) -> Key:
    wrong_types = [True, 12345, 1.5, ["s"], {"s": 1}, datetime.date(2024, 1, 31)]
    words = {True: "True (bool)", 12345: "12345 (int)", 1.5: "1.5 (float)"}
    described = [
        (value, f"{a(type(value).__name__)}, which is not shown")
        if hidden
        else (value, words[value] if isinstance(value, (int, float)) else f"a value of type {type(value).__name__}")
        for value in wrong_types
    ]
    texts = [(value, HIDDEN_STR if hidden else f"{value[:60]!r}") for value in refused]
    return Key(name, None, f"null, or {allowed}", [None, *accepted], described + texts)


def mapping(name: str, allowed: str, accepted: list[Any], refused: list[Any], *, hidden: bool = False) -> Key:
    found = [
        (
            value,
            f"{a(type(value).__name__)}, which is not shown" if hidden else f"a value of type {type(value).__name__}",
        )
        for value in [[], *refused]
    ]
    return Key(name, {}, allowed, [{}, *accepted], found)


KEYS = [
    text(
        "path.data",
        Path("data"),
        PATH,
        accepted=["/var/lib/x", "/", "/a b", "/données", "/~"],
        refused=["", "a\0b", "\0", "~nobody-of-this-name/x", "\ud800"],
    ),
    switch("stats.enabled", True),
    switch("stats.persist", True),
    switch("stats.no_buffer", True),
    switch("stats.include_storage_stats_in_api", True),
    integer("stats.buffer_size", 1000, 1, 1_000_000),
    integer("stats.flush_interval_ms", 1000, 1, 3_600_000),
    integer("stats.capacity", 262_144, 256, 16_777_216),
    integer("stats.max_workers", 64, 1, 1024),
    integer("stats.snapshot_interval_ms", 10_000, 100, 86_400_000),
    switch("stats.durable_exposition", True),
    integer("stats.expire_idle_seconds", 0, 0, 315_360_000),
    integer("stats.max_series_per_metric", 1000, 1, 16_777_216),
    integer("stats.archive_interval_hours", 0, 0, 8760),
    integer("stats.archive_keep", 14, 1, 1000),
    text(
        "api.bind",
        "127.0.0.1:8080",
        ADDRESS,
        accepted=[
            "0.0.0.0:0",
            "127.0.0.1:65535",
            "localhost:8080",
            "my-host.example.org:80",
            "[::1]:8080",
            "[::]:0",
            "[fe80::1%eth0]:8080",
            "unix:/run/shmstats.sock",
            "unix:///run/shmstats.sock",
            "unix:/run/with blank:and colon",
            "unix:/" + "x" * 106,
        ],
        refused=[
            "",
            "localhost",
            "8080",
            ":8080",
            "localhost:",
            "localhost:http",
            "localhost:-1",
            "localhost:65536",
            "localhost:99999",
            "localhost:\u0663",
            "localhost:80\n",
            "local host:80",
            "user@host:80",
            "http://host:80",
            "::1:8080",
            "[::1]",
            "[]:80",
            "[localhost]:80",
            "[::12345]:80",
            "[::1]:65536",
            "unix:",
            "unix:/",
            "unix:run/x.sock",
            "unix://run/x.sock",
            "unix:/run/\0",
            "unix:/run/\ud800",
            "unix:/" + "x" * 107,
            "unix:/" + "é" * 54,
        ],
    ),
    integer("api.workers", 2, 1, 1024),
    optional(
        "api.token",
        TOKEN.removeprefix("null, or "),
        ["s", "!~", "eyJhbGciOi.J9-_~+/==", "x" * 4096],
        ["", " ", "a b", "a\tb", "a\n", "a\x7f", "a\x00", "geheimé", "\u0663"],
        hidden=True,
    ),
    text("api.protect", "admin", "'admin' or 'all'", ["admin", "all"], ["", "Admin", "none", "admin ", "all\n"]),
    Key(
        "api.peers",
        (),
        "a list of 'host:port' or '[ipv6]:port' (port 0 to 65535)",
        [[], ["a:80", "[::1]:8080"]],
        [
            (None, "null (NoneType)"),
            ("a:80", "'a:80' (str)"),
            *(([value], "a value of type list") for value in ("a", "", "unix:/a", "a:65536", 80, None)),
        ],
    ),
    switch("statsd.enabled", False),
    text(
        "statsd.host",
        "localhost",
        HOST,
        ["localhost", "10.0.0.1", "::1", "statsd.example.org", "bücher.example"],
        ["", " ", "a b", "a\n", "a\0", "a\x7f", "a\ud800"],
    ),
    integer("statsd.port", 8125, 1, 65535),
    text("statsd.protocol", "udp", "'udp' or 'tcp'", ["udp", "tcp"], ["", "UDP", "sctp", "udp\n"]),
    text(
        "statsd.namespace",
        "app.",
        NAMESPACE,
        ["", "app.", "a_b-c.", "!~"],
        ["a:", "a|", "@", "#", "a b", " ", "a\n", "a\x7f", "é", "\0"],
    ),
    integer("statsd.interval_in_seconds", 1, 1, 3600),
    integer("statsd.buffer_size", 100, 1, 1_000_000),
    optional(
        "push.url",
        URL,
        ["http://h", "https://h.example.org:8428/api/v1/write?a=b", "http://[::1]:9090/", "http://10.0.0.1:65535/"],
        [
            "",
            "h",
            "ftp://h/",
            "http://",
            "http://u:p@h/",
            "http://u@h/",
            "http://h:65536/",
            "http://h/ a",
            "http://h/#a",
            "http://h/\n",
        ],
        hidden=True,
    ),
    text(
        "push.format",
        "remote_write",
        "'remote_write' or 'otlp' or 'import'",
        ["remote_write", "otlp", "import"],
        ["", "OTLP", "json"],
    ),
    integer("push.interval_seconds", 15, 1, 3600),
    integer("push.timeout_seconds", 10, 1, 300),
    mapping(
        "push.labels",
        LABELS,
        [{"job": "shop", "Dc_1": "eu-west 1, ä"}],
        [{"instance": "a"}, {"le": "1"}, {"__a": "b"}, {"a-b": "c"}, {"": "c"}, {"a": ""}, {"a": 1}, {1: "a"}],
    ),
    optional(
        "push.instance", "1 to 255 characters without blanks", ["web-1:8080", "ä"], ["", " ", "a b", "a\n", "x" * 256]
    ),
    mapping(
        "push.headers",
        HEADERS,
        [{"Authorization": "Bearer a", "X-Scope-OrgID": "1"}],
        [{"Host": "a"}, {"content-type": "a"}, {"A": "b\r\nC: d"}, {"A B": "c"}, {"A": ""}, {"A": 1}, {"A": "é"}],
        hidden=True,
    ),
    optional("push.headers_file", "an absolute path", ["/run/secrets/h"], ["", "h", "./h", "/a\0"]),
    optional("push.ca_file", "an absolute path", ["/etc/ca.pem"], ["", "ca.pem", "/a\0"]),
    switch("history.enabled", True),
    Key(
        "history.series",
        (),
        "a list of texts that are not empty, as 'category.metric' with * and ?",
        accepted=[[], ["requests.*"], ["a.b", "c.?"]],
        refused=[
            ([""], "a value of type list"),
            ([1], "a value of type list"),
            ("requests.*", "'requests.*' (str)"),
            (None, "null (NoneType)"),
        ],
    ),
    text(
        "prometheus.namespace",
        "",
        "letters, digits, _ and :, not a digit first, or ''",
        ["", "shop", "shop:web_1"],
        ["1a", "a b", "a-b", "ä", "a\n"],
    ),
    mapping(
        "prometheus.labels",
        "a mapping of label names (letters, digits and _; not category, metric, le or __...) to quoted texts",
        [{"region": "eu, ä", "Dc_1": "x"}],
        [{"category": "a"}, {"le": "1"}, {"__a": "b"}, {"a-b": "c"}, {"": "c"}, {"a": ""}, {"a": 1}],
    ),
]


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts each test in an empty directory, without a configuration in the environment."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("SHMSTATS_CONFIG", raising=False)


@dataclass
class Given:
    """One way to give a configuration: how ``load`` gets it, and how its errors begin."""

    load: Callable[[Mapping[str, Any]], Settings]
    where: str


@pytest.fixture(params=["mapping", "file"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Given:
    """Runs a test once with a mapping and once with the same as a YAML file."""
    if request.param == "mapping":
        return Given(load, "the given mapping")
    file = tmp_path / "conf.yml"

    def load_file(config: Mapping[str, Any]) -> Settings:
        file.write_text(yaml.safe_dump(dict(config)))
        return load(file)

    return Given(load_file, str(file))


def as_config(name: str, value: object) -> dict[str, Any]:
    section, key = name.split(".")
    return {section: {key: value}}


def setting(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(settings, section), key)


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def message_of(config: object) -> str:
    """Returns the message of the error that ``load`` raises; every such message is one line."""
    with pytest.raises(ConfigError) as caught:
        load(config)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    return message


# Every key


def test_the_table_of_this_test_has_every_key_of_the_settings() -> None:
    assert Settings.fields == (*SECTIONS, "source")
    declared = [f"{name}.{key}" for name, keys in Settings().as_mapping().items() for key in keys]
    assert [key.name for key in KEYS] == declared


def test_a_key_that_is_not_given_has_its_default(given: Given) -> None:
    settings = given.load({})
    for key in KEYS:
        found = setting(settings, key.name)
        expected = Path.cwd() / key.default if key.name == "path.data" else key.default
        assert (key.name, type(found), found) == (key.name, type(expected), expected)


def test_a_default_is_within_its_own_rule(given: Given) -> None:
    for key in KEYS:
        default = str(key.default) if key.name == "path.data" else key.default
        given.load(as_config(key.name, list(default) if isinstance(default, tuple) else default))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_value_within_the_rule_is_accepted(key: Key, given: Given) -> None:
    for value in key.accepted:
        found = setting(given.load(as_config(key.name, value)), key.name)
        expected = Path(str(value)) if key.name == "path.data" else value
        assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_refused_value_is_named_together_with_the_allowed_values(key: Key, given: Given) -> None:
    for value, found in key.refused:
        content = as_config(key.name, value)
        if value == 10**5000 and given.where != "the given mapping":
            content = as_config(key.name, 10**4000)  # YAML cannot write a longer one
            found = "an integer of 13288 bits (int)"
        with pytest.raises(ConfigError) as caught:
            given.load(content)
        message = str(caught.value)
        assert message.isprintable()
        assert message.startswith(f"{given.where}: {key.name}: found {found}")
        assert f"; allowed: {key.allowed}" in message


def test_a_long_value_is_cut_in_the_message() -> None:
    assert "'" + "x" * 60 + "'... (str)" in message_of({"api": {"protect": "x" * 100_000}})


def test_an_object_of_another_type_is_described_by_its_type_only() -> None:
    assert "found a value of type object;" in message_of({"stats": {"capacity": object()}})


def test_only_the_first_mistake_is_reported() -> None:
    message = message_of({"stats": {"capacity": 1, "max_workers": 0}})
    assert "capacity" in message
    assert "max_workers" not in message


# Sections and keys


def test_other_top_level_sections_are_ignored(given: Given) -> None:
    settings = given.load({"application": {"capacity": -1}, "stat": 3, 5: None, "api": {"workers": 3}})
    assert settings.api.workers == 3


@pytest.mark.parametrize(("name", "near"), [("stat", "stats"), ("paths", "path"), ("API", None), ("application", None)])
def test_a_section_with_a_similar_name_is_ignored_with_one_warning(
    name: str, near: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "x.yml", f"{name}: {{capacity: 512}}\n")
    for _ in range(2):
        assert load(file).stats.capacity == Settings().stats.capacity
    expected = [f"{file}: the section {name} is ignored (did you mean {near}?)"] if near else []
    assert caplog.messages == expected


def test_other_sections_may_have_unknown_tags_and_duplicate_keys(tmp_path: Path) -> None:
    file = write(
        tmp_path / "x.yml",
        "app: {secret: !vault abc, day: 2024-13-01, a: 1, a: 2, ? [list] : 1}\n"
        "app: !ruby/object {}\n? [a, b]\n: 1\nstats: {capacity: 512}\n",
    )
    assert load(file).stats.capacity == 512


def test_a_pipe_is_refused_as_a_configuration_without_waiting(tmp_path: Path) -> None:
    def too_long(*_: object) -> None:
        raise TimeoutError

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    former = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    try:
        assert message_of(pipe) == f"{pipe}: is not a regular file"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    assert load(os.devnull).stats == Settings().stats


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_is_null_has_its_defaults(section: str, given: Given) -> None:
    assert getattr(given.load({section: None}), section) == getattr(Settings(), section)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_is_not_a_mapping_is_refused(section: str, given: Given) -> None:
    for value in (True, 0, "enabled", "", [], [{"enabled": True}]):
        with pytest.raises(ConfigError) as caught:
            given.load({section: value})
        found = a(type(value).__name__)
        assert str(caught.value) == f"{given.where}: {section}: found {found}; allowed: a mapping of keys"


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_is_refused_with_the_known_ones(section: str, given: Given) -> None:
    known = ", ".join(getattr(Settings(), section).rules)
    with pytest.raises(ConfigError) as caught:
        given.load({section: {"zzz": 1}})
    assert str(caught.value) == f"{given.where}: {section}.zzz: found an unknown key; allowed: {known}"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("stats.capcity", "capacity"),
        ("stats.CAPACITY", "capacity"),
        ("stats.flush_interval", "flush_interval_ms"),
        ("stats.no-buffer", "no_buffer"),
        ("api.binds", "bind"),
        ("statsd.interval", "interval_in_seconds"),
        ("path.date", "data"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(wrong: str, near: str, given: Given) -> None:
    with pytest.raises(ConfigError) as caught:
        given.load(as_config(wrong, 1))
    assert f"{given.where}: {wrong}: found an unknown key (did you mean {near}?)" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "found"), [(1, "1 (int)"), (True, "True (bool)"), (None, "null (NoneType)"), (1.5, "1.5 (float)")]
)
def test_a_key_that_is_not_a_string_is_refused(key: object, found: str, given: Given) -> None:
    with pytest.raises(ConfigError) as caught:
        given.load({"stats": {key: 1}})
    assert str(caught.value) == f"{given.where}: stats: found the key {found}; allowed: strings only"


def test_an_unknown_key_with_line_breaks_stays_on_one_line() -> None:
    assert r"'stats.a\nb'" in message_of({"stats": {"a\nb": 1}})


def test_any_mapping_is_accepted() -> None:
    settings = load(MappingProxyType({"stats": MappingProxyType({"capacity": 300})}))
    assert settings.stats.capacity == 300


@pytest.mark.parametrize("config", [3, True, b"x.yml", ["x.yml"], object()])
def test_a_configuration_of_another_type_is_a_type_error_that_names_the_argument(config: object) -> None:
    kind = type(config).__name__
    with pytest.raises(TypeError, match=f"^config must be the path .* not {kind}$"):
        load(config)  # type: ignore[arg-type]


# Files


@pytest.mark.parametrize("content", ["", "\n", "# nothing\n", "---\n", "null\n", "{}\n", "\ufeff"])
def test_an_empty_file_means_the_defaults(content: str, tmp_path: Path) -> None:
    file = write(tmp_path / "x.yml", content)
    settings = load(file)
    assert settings == Settings(source=str(file))


def test_a_file_in_the_documented_form_is_accepted(tmp_path: Path) -> None:
    file = write(
        tmp_path / "x.yml",
        "path:\n  data: d   # here\nstats:\n  no_buffer: false\n  capacity: 1_024\n"
        "api:\n  bind: 127.0.0.1:9090\n  token:\nstatsd:\n  namespace: ''\n",
    )
    settings = load(file)
    assert settings.path.data == tmp_path / "d"
    assert settings.stats.no_buffer is False
    assert settings.stats.capacity == 1024
    assert settings.api.bind == "127.0.0.1:9090"
    assert settings.api.token is None
    assert settings.statsd.namespace == ""


def test_anchors_and_merge_keys_work_and_own_keys_override_merged_ones(tmp_path: Path) -> None:
    file = write(
        tmp_path / "x.yml",
        "base: &base {buffer_size: 7, enabled: false}\nstats:\n  <<: *base\n  buffer_size: 8\nstatsd: *base\n",
    )
    settings = load(file)
    assert (settings.stats.buffer_size, settings.stats.enabled) == (8, False)
    assert (settings.statsd.buffer_size, settings.statsd.enabled) == (7, False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("stats: [1", "line 1, column 10: while parsing a flow sequence, expected ',' or ']'"),
        ("stats:\n  a: b: c\n", "line 2, column 7: mapping values are not allowed here"),
        (
            "stats:\n\tcapacity: 1\n",
            "line 2, column 1: while scanning for the next token, found character '\\t'",
        ),
        ("a: 1\n--- \nb: 1\n", "line 2, column 1: expected a single document in the stream"),
        ("stats: *other\n", "line 1, column 8: found undefined alias (not shown)"),
        ("stats: {capacity: !!int many}\n", "line 1, column 19: cannot be read as a YAML int"),
        ("api: {bind: 2024-13-01}\n", "line 1, column 13: cannot be read as a YAML timestamp"),
        ("stats: {enabled: !!bool maybe}\n", "line 1, column 18: cannot be read as a YAML bool"),
        ("stats: {capacity: " + "9" * 5000 + "}\n", "line 1, column 19: cannot be read as a YAML int"),
        ("stats: {? [a] : 1}\n", "line 1, column 11: while constructing a mapping, found unhashable key"),
        ("stats: {<<: 3}\n", "line 1, column 13: while constructing a mapping, expected a mapping"),
        ("stats: !!python/object:os.system {}\n", "line 1, column 8: could not determine a constructor"),
        ("ok: 1\nx: a\x07\n", "line 2, column 5: YAML does not allow the character 0x7"),
        (b"ok: 1\nx: \xc3\xa9\xff\n", "line 2, column 5: byte 0xff is not UTF-8"),
        ("[" * 1_000, "nested too deeply"),
    ],
)
def test_invalid_yaml_is_refused_with_its_place(content: str | bytes, expected: str, tmp_path: Path) -> None:
    file = write(tmp_path / "x.yml", content)
    assert message_of(file).startswith(f"{file}: {expected}")


@pytest.mark.parametrize(
    ("content", "kind"),
    [("- stats\n", "sequence"), ("stats\n", "scalar"), ("3\n", "scalar"), ("''\n", "scalar")],
)
def test_a_document_that_is_not_a_mapping_is_refused(content: str, kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / "x.yml", content)
    assert message_of(file) == f"{file}: found a {kind} at the top; allowed: a mapping of sections"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("stats:\n  capacity: 512\n  capacity: 512\n", "line 3, column 3: the key capacity is given twice"),
        ("stats: {capacity: 512, 'capacity': 1024}\n", "line 1, column 24: the key capacity is given twice"),
        ("stats: {}\napp: 1\nstats: {}\n", "line 3, column 1: the key stats is given twice"),
    ],
)
def test_a_key_given_twice_is_refused(content: str, expected: str, tmp_path: Path) -> None:
    file = write(tmp_path / "x.yml", content)
    assert message_of(file) == f"{file}: {expected}"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            "api: {protect: no}",
            "api.protect: found False (bool); allowed: 'admin' or 'all' (YAML makes unquoted no",
        ),
        ("statsd: {namespace: on}", "statsd.namespace: found True (bool); allowed: "),
        ("api: {bind: 12:30}", "api.bind: found 750 (int); allowed: "),
        ("statsd: {host: 2024-01-31}", "statsd.host: found a value of type date; allowed: "),
        ("path: {data: 1.5}", "path.data: found 1.5 (float); allowed: "),
    ],
)
def test_unquoted_text_that_yaml_converts_is_refused_with_advice_to_quote_it(
    content: str, found: str, tmp_path: Path
) -> None:
    message = message_of(write(tmp_path / "x.yml", content))
    assert found in message
    assert message.endswith("use quotes)")


def test_advice_to_quote_is_given_only_if_it_helps(tmp_path: Path) -> None:
    assert "quotes" not in message_of({"api": {"protect": False}})
    assert "quotes" not in message_of(write(tmp_path / "a.yml", "stats: {capacity: no}"))
    assert "quotes" not in message_of(write(tmp_path / "b.yml", "api: {protect: none}"))


# Where it is found


def test_without_a_configuration_the_defaults_apply() -> None:
    assert load() == load({}) == Settings()
    assert load().source is None


def test_an_argument_overrides_the_environment_which_overrides_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write(Path.cwd() / "shmstats.yml", "api: {workers: 11}")
    named = write(tmp_path / "named.yml", "api: {workers: 12}")
    argument = write(tmp_path / "argument.yml", "api: {workers: 13}")

    assert (load().api.workers, load().source) == (11, str(here))
    monkeypatch.setenv("SHMSTATS_CONFIG", str(named))
    assert (load().api.workers, load().source) == (12, str(named))
    assert (load(argument).api.workers, load(argument).source) == (13, str(argument))
    assert load(str(argument)) == load(argument)
    assert (load({}).api.workers, load({}).source) == (2, None)


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMSTATS_CONFIG", "")
    assert load() == Settings()


def test_the_source_of_a_file_named_by_a_relative_path_is_absolute() -> None:
    file = write(Path.cwd() / "etc" / "x.yml", "stats: {capacity: 512}")
    assert load("etc/x.yml").source == str(file)


def test_a_file_of_the_current_directory_is_named_in_errors() -> None:
    write(Path.cwd() / "shmstats.yml", "stats: {capacity: 1}")
    assert message_of(None).startswith("shmstats.yml: stats.capacity: found 1 (int)")


@pytest.mark.parametrize("name", ["missing.yml", "directory", "with\nbreak", "", "nul\0", "\ud800"])
def test_an_argument_that_cannot_be_read_is_an_error(name: str) -> None:
    Path("directory").mkdir()
    shown = name if name.isprintable() and name else repr(name)
    assert message_of(name).startswith(f"{shown}: cannot be read: ")


def test_a_variable_that_names_a_missing_file_is_an_error_that_names_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(Path.cwd() / "shmstats.yml", "")
    monkeypatch.setenv("SHMSTATS_CONFIG", "/nowhere/x.yml")
    expected = "/nowhere/x.yml (named by $SHMSTATS_CONFIG): cannot be read: No such file or directory"
    assert message_of(None) == expected


# The data directory


def test_a_relative_data_directory_in_a_file_is_relative_to_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "etc" / "x.yml", "path: {data: var/../lib/./stats}")
    assert load(file).path.data == tmp_path / "etc" / "lib" / "stats"
    assert load("../etc/x.yml").path.data == tmp_path / "etc" / "lib" / "stats"
    monkeypatch.setenv("SHMSTATS_CONFIG", "../etc/x.yml")
    assert load().path.data == tmp_path / "etc" / "lib" / "stats"


def test_without_the_key_the_data_directory_is_in_the_current_directory(tmp_path: Path) -> None:
    assert load(write(tmp_path / "etc" / "x.yml", "path:\n")).path.data == Path.cwd() / "data"


def test_a_relative_data_directory_in_a_mapping_is_resolved_when_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load({"path": {"data": "../d"}})
    monkeypatch.chdir("/")
    assert settings.path.data == tmp_path / "d"


def test_a_data_directory_may_be_given_as_a_path_object(tmp_path: Path) -> None:
    assert load({"path": {"data": tmp_path}}).path.data == tmp_path


def test_a_path_object_may_return_bytes(tmp_path: Path) -> None:
    class BytesPath:
        def __fspath__(self) -> bytes:
            return bytes(tmp_path) + b"/\xff"

    assert load({"path": {"data": BytesPath()}}).path.data == tmp_path / "\udcff"


def test_the_home_directory_is_expanded(given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert given.load({"path": {"data": "~/d"}}).path.data == tmp_path / "home" / "d"


def test_symbolic_links_in_the_data_directory_are_kept(given: Given, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "cwd")
    link = str(tmp_path / "link" / "d")
    assert given.load({"path": {"data": link}}).path.data == Path(link)


def test_a_relative_data_directory_under_a_removed_current_directory_is_an_error() -> None:
    Path.cwd().rmdir()
    message = message_of({})
    assert message.startswith("path.data: found data, which is relative, and the current directory no longer")
    assert load({"path": {"data": "/var/x"}}).path.data == Path("/var/x")


# The token


def test_the_token_is_in_no_representation() -> None:
    settings = load({"api": {"token": "s3cret"}})
    assert settings.api.token == "s3cret"
    assert "s3cret" not in f"{settings!r} {settings} {settings.api!r} {settings.api}"


@pytest.mark.parametrize(
    "content",
    [
        'api: {token: "s3cret "}',
        "api: {token: [s3cret]}",
        "api: {token: {s3cret: 1}}",
        "api: {token: !s3cret}",
        "api: {token: !s3cret x}",
        "api: {token: !s3cr!et x}",
        "api: {token: !<s3cret> x}",
        "api: {token: !s3cret'x'y z}",
        "api: {token: *s3cret}",
        "api: {token: !!int s3cret}",
        "api: {token: !!bool s3cret}",
        "api: {token: s3cret: x}",
        "api:\n  token: 's3cret\n",
        'api:\n  token: "s3cr\\qet"\n',
        "api: {token:s3cret}",
        "api: {token:s3cret, token:s3cret}",
        "api:\n  token:s3cret\n",
        "api:\n  bind: localhost:1\n  token:s3cret\n",
        "api: s3cret",
        "api: {tokn: s3cret}",
        "api: {token: &s3cr a, bind: &s3cr 3}",
        "s3cret",
    ],
)
def test_no_error_message_shows_the_token(content: str, tmp_path: Path) -> None:
    message = message_of(write(tmp_path / "x.yml", content))
    assert "s3cr" not in message


def test_the_message_shows_a_missing_space_after_a_colon(tmp_path: Path) -> None:
    message = message_of(write(tmp_path / "x.yml", "api: {token:s3cret}"))
    assert "api.token:...: found an unknown key (did you mean token?)" in message


# Settings as values


def test_settings_cannot_be_changed() -> None:
    settings = load({})
    with pytest.raises(AttributeError):
        settings.stats.capacity = 1  # type: ignore[misc]
    with pytest.raises(AttributeError):
        settings.source = "x"  # type: ignore[misc]


def test_settings_can_be_pickled_for_a_spawned_process() -> None:
    settings = load({"api": {"token": "x"}, "path": {"data": "/d"}})
    assert pickle.loads(pickle.dumps(settings)) == settings
