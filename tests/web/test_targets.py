"""``/stats/targets``: the targets that Prometheus and vmagent scrape."""

from __future__ import annotations

from collections.abc import Callable

from flask.testing import FlaskClient


def test_peers_are_one_group_of_targets(serve: Callable[..., FlaskClient]) -> None:
    answer = serve(api={"peers": ["web-1:8000", "[::1]:8000"]}).get("/stats/targets")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.get_json() == [{"targets": ["web-1:8000", "[::1]:8000"]}]


def test_without_peers_there_is_no_group_of_targets(serve: Callable[..., FlaskClient]) -> None:
    assert serve().get("/stats/targets").get_json() == []


def test_targets_are_protected_like_statistics(serve: Callable[..., FlaskClient]) -> None:
    api = {"peers": ["web-1:8000"], "protect": "all", "token": "t"}
    client = serve(api=api)
    outside = {"REMOTE_ADDR": "10.0.0.1"}
    assert client.get("/stats/targets", environ_base=outside).status_code == 401
    headers = {"Authorization": "Bearer t"}
    assert client.get("/stats/targets", environ_base=outside, headers=headers).status_code == 200
