"""Addresses that are taken or do not fit together, and certificates of ours that end."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from tests.doctor.cases import CONFIG, case_of
from tests.simulators import free_port
from tokenproxy.core.settings import Listen
from tokenproxy.doctor import listeners

TEXT = CONFIG.replace("{provider}", "rotating")


def with_listen(listen: str, *, public_url: str = "", admin: int = 0) -> str:
    public = f'public_url = "{public_url}"\n' if public_url else ""
    return f'[server]\nlisten = {listen}\n[admin]\nlisten = "127.0.0.1:{admin}"\n{public}{TEXT}'


def test_a_listener_that_is_taken_names_the_process(tmp_path: Path) -> None:
    """Who it is, and the setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found, _ = listeners.taken(case_of(tmp_path, with_listen(f'"127.0.0.1:{port}"')))

    assert (found.level, found.code) == ("bad", "listener_taken")
    assert found.sentence.startswith(f"127.0.0.1:{port} is in use by process ")
    assert found.remedy == "Set server.listen, or stop it."


def test_a_port_that_is_shared_on_purpose_is_not_taken(tmp_path: Path) -> None:
    """One process for each core: the others have it as well (server.reuse_port)."""
    case = case_of(tmp_path, with_listen('"127.0.0.1:0"'))
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        listen = Listen(address=f"127.0.0.1:{other.getsockname()[1]}", shared=True)
        server = replace(case.config.server, listen=(listen,))
        found, _ = listeners.taken(replace(case, config=replace(case.config, server=server)))
        alone = replace(server, listen=(replace(listen, shared=False),))
        taken, _ = listeners.taken(replace(case, config=replace(case.config, server=alone)))

    assert (found.level, taken.code) == ("good", "listener_taken")


def test_what_the_running_serve_has_is_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running = {"pid": 1, "listeners": {"proxy": address}}
        found, admin = listeners.taken(case_of(tmp_path, with_listen(f'"{address}"'), running=running))

    assert (found.level, admin.level) == ("good", "good")
    assert "serve has it" in found.sentence


def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path: Path) -> None:
    text = with_listen(f'"192.0.2.1:{free_port()}"').replace(
        "[server]", "[server]\nallow_unauthenticated = true"
    )
    found, _ = listeners.taken(case_of(tmp_path, text))

    assert found.code == "listener_unusable"


def test_unix_sockets_that_are_free_taken_or_without_a_folder(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        text = with_listen('["unix:s", "unix:nowhere/s", "unix:free"]')
        found = list(listeners.taken(case_of(tmp_path, text)))

    assert [each.code for each in found] == ["listener_taken", "listener_unusable", "", ""]


def test_where_browsers_come_back_to_must_be_where_we_listen(tmp_path: Path) -> None:
    port = free_port()
    (mismatch,) = listeners.redirect(
        case_of(tmp_path, with_listen('"127.0.0.1:0"', public_url="http://localhost:9100", admin=port))
    )
    (fits,) = listeners.redirect(case_of(tmp_path, with_listen('"127.0.0.1:0"', admin=port)))

    assert mismatch.code == "public_url_mismatch"
    assert fits.sentence == f"crm: registered at its provider must be http://127.0.0.1:{port}/callback/crm"


def test_codes_that_travel_in_the_clear_are_warned_of(tmp_path: Path) -> None:
    text = with_listen('"127.0.0.1:0"', public_url="http://tokens.example").replace(
        "[admin]", "[admin]\ninsecure_http = true"
    )
    (found,) = listeners.redirect(case_of(tmp_path, text))

    assert found.code == "public_url_plain"


def test_a_certificate_of_ours_that_ends_soon(tmp_path: Path) -> None:
    ends = datetime.now(UTC) + timedelta(days=5)
    certificate = trustme.CA().issue_cert("localhost", not_after=ends)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o600)
    text = with_listen('[{ address = "127.0.0.1:0", cert_file = "cert.pem", key_file = "key.pem" }]')
    (soon,) = listeners.certificates(case_of(tmp_path, text))
    (over,) = listeners.certificates(
        case_of(tmp_path, text, now=lambda: datetime.now(UTC) + timedelta(days=9))
    )

    of_operators = with_listen('"127.0.0.1:0"').replace(
        "[admin]", '[admin]\ncert_file = "cert.pem"\nkey_file = "key.pem"'
    )

    assert [each.code for each in listeners.certificates(case_of(tmp_path, of_operators))] == [
        "certificate_ends"
    ]
    assert (soon.level, soon.code) == ("warn", "certificate_ends")
    assert (over.level, over.code) == ("bad", "certificate_ends")
    assert f"{ends:%Y-%m-%d}" in soon.sentence
