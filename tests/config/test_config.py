"""What a good file becomes, and the pages that promise it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.config.reading import GOOD, read, with_route, with_top
from tokenproxy.config import load, units
from tokenproxy.config.models import NAMED
from tokenproxy.config.reference import every_setting
from tokenproxy.config.table import DEPENDS, REQUIRED
from tokenproxy.config.values import Config, ForwardAuth, LogSettings
from tokenproxy.core.passwords import PasswordHash
from tokenproxy.core.provider import Inject
from tokenproxy.core.routes import Route, Upstream
from tokenproxy.core.settings import Deadlines, Limits, Listen, RenewPolicy, Replay, ReplayBudget, TLSFiles
from tokenproxy.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_least_config_has_every_default(tmp_path: Path) -> None:
    """Two tables are enough, and all else is what ``core`` says."""
    config = read(GOOD, tmp_path)

    assert config.server.listen == (Listen(address="127.0.0.1:8080", local=True),)
    assert (config.admin.listen, config.admin.public_url) == ("127.0.0.1:9100", "http://127.0.0.1:9100")
    assert config.metrics.listen is None
    assert config.store.cache == 176 * 2**20
    assert config.deadlines == Deadlines()
    assert config.limits == Limits()
    assert config.replay == ReplayBudget()
    assert config.renew == RenewPolicy()
    assert config.log == LogSettings()
    assert config.warnings == ()
    assert config.path == tmp_path / "config.toml"
    assert config.routes == (
        Route(
            name="books",
            prefix="/books/",
            upstream=Upstream(scheme="https", host="api.example.com", port=443, authority="api.example.com"),
            account="books",
            inject=Inject(header="x-access-token", value="{access_token}"),
            values={"client_id": "cl_pub_1234"},
        ),
    )


def test_a_route_with_everything(tmp_path: Path) -> None:
    """Names in lower case, slashes where they belong, the section's budget where the route says nothing."""
    (tmp_path / "ca.pem").touch()
    config = read(
        with_top("[replay]", 'disk = "2 MiB"', 'dir = "."', "[limits]", "in_flight = 50").replace(
            "https://api.example.com", "https://API.example.com:8443/v2/"
        )
        + 'prefix = "shop/books"\nhost = "Books.Example"\npass = ["Cookie"]\nin_flight = 50\n'
        + 'origins = ["https://Intranet.example:443", "http://localhost:3000"]\n'
        + 'replay = { memory = "1 KiB" }\ntls = { ca_file = "ca.pem" }\n',
        tmp_path,
    )

    assert config.routes == (
        Route(
            name="books",
            prefix="/shop/books/",
            host="books.example",
            upstream=Upstream(
                scheme="https",
                host="api.example.com",
                port=8443,
                authority="api.example.com:8443",
                path="/v2",
                tls=TLSFiles(ca_file=str(tmp_path / "ca.pem")),
            ),
            account="books",
            inject=Inject(header="x-access-token", value="{access_token}"),
            values={"client_id": "cl_pub_1234"},
            passed=frozenset({"cookie"}),
            origins=frozenset({"https://intranet.example", "http://localhost:3000"}),
            replay=Replay(memory=1024, disk=2 * 2**20),
            in_flight=50,
        ),
    )
    assert config.replay.directory == str(tmp_path / ".")


def test_a_route_that_lets_tunnels_through(tmp_path: Path) -> None:
    """Protocols in any case, as callers write them; limits of tunnels may be lifted."""
    lines = ("[deadlines]", "tunnel = 0", 'events = "5 min"', "[limits]", "tunnels = 7")
    text = with_top(*lines) + 'host = "api.example.com"\nupgrade = ["WebSocket", "MQTT/5"]\nconnect = true\n'
    config = read(text, tmp_path)

    assert config.routes[0].upgrade == {b"websocket", b"mqtt/5"}
    assert config.routes[0].connect
    assert (config.deadlines.tunnel, config.deadlines.events, config.limits.tunnels) == (0, 300, 7)


@pytest.mark.parametrize("account", ["books", "books/anna@example.com", "books/{header:X-User}"])
def test_a_route_may_name_a_login_or_let_a_header_do_so(account: str, tmp_path: Path) -> None:
    """The route carries it on as it is written; the data plane reads it with ``account_header``."""
    text = GOOD.replace('account = "books"', f'account = "{account}"\ntrust_account_header = true')

    assert read(text, tmp_path).routes[0].account == account


@pytest.mark.parametrize(
    "upstream", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:1", "http://x.localhost"]
)
def test_plain_http_to_this_machine_needs_no_word(upstream: str, tmp_path: Path) -> None:
    """A simulator, a sidecar: nothing leaves the machine."""
    route = read(GOOD.replace("https://api.example.com", upstream), tmp_path).routes[0]

    assert route.upstream.scheme == "http"


def test_the_same_prefix_on_two_hosts_is_no_clash(tmp_path: Path) -> None:
    """And neither is a longer prefix below a shorter one: the longest wins."""
    config = read(
        with_route(
            "[routes.other]", 'prefix = "books"', 'host = "b.example"', 'upstream = "https://b"', 'account = "books"',
            "[routes.below]", 'prefix = "/books/old/"', 'upstream = "https://c"', 'account = "books"',
        ),
        tmp_path,
    )  # fmt: skip

    assert len(config.routes) == 3


@pytest.mark.parametrize(
    ("lines", "listen"),
    [
        (["listen = '0.0.0.0:8080'", "allow_unauthenticated = true"], ("0.0.0.0:8080",)),
        (["listen = '[::]:8080'", "caller_auth.keys = 'literal:0123456789abcdef'"], ("[::]:8080",)),
        (
            ["listen = ['localhost:0', 'localhost:0', '127.8.8.8:1']"],
            ("localhost:0", "localhost:0", "127.8.8.8:1"),
        ),
        (["listen = 'unix:/run/tp.sock'"], ("unix:/run/tp.sock",)),
    ],
)
def test_where_callers_come_in(lines: list[str], listen: tuple[str, ...], tmp_path: Path) -> None:
    """Beyond loopback only with a key, or with the word that says nobody needs one."""
    found = read(with_top("[server]", *lines), tmp_path).server.listen

    assert tuple(each.address for each in found) == listen


def test_processes_on_one_port_share_a_database(tmp_path: Path) -> None:
    store = '\n[store]\nurl = "postgresql://u@h/db"\nkey = "file:tokenproxy.key"'
    config = read(with_top("[server]", "reuse_port = true", store), tmp_path)

    assert config.server.listen[0].shared


def test_relative_sockets_start_at_the_config(tmp_path: Path) -> None:
    """As every path does, wherever the program was started."""
    config = read(with_top("[server]", 'listen = "unix:tp.sock"'), tmp_path)

    assert config.server.listen[0].address == f"unix:{tmp_path}/tp.sock"


@pytest.mark.parametrize(
    "lines",
    [
        ("[server]", "listen = [{ address = '127.0.0.1:1' }, 'unix:@b', ", "{ address = 'unix:a', mode = '0660', group = 'root' }]"),
        ("[[server.listen]]", "address = '127.0.0.1:1'", "[[server.listen]]", "address = 'unix:@b'",
         "[[server.listen]]", "address = 'unix:a'", "mode = 0o660", "group = 'root'"),
    ],
)  # fmt: skip
def test_an_entry_of_listen_may_be_a_table(lines: tuple[str, ...], tmp_path: Path) -> None:
    """In either way that TOML has for it, and beside text."""
    assert read(with_top(*lines), tmp_path).server.listen == (
        Listen(address="127.0.0.1:1", local=True),
        Listen(address="unix:@b", local=True),
        Listen(address=f"unix:{tmp_path}/a", mode=0o660, group="root", local=True),
    )


def test_a_listener_for_known_certificates_needs_no_key(tmp_path: Path) -> None:
    """And a key that others can read is told, as everywhere."""
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).touch(mode=0o600)
    tls = "cert_file = 'cert.pem', key_file = 'key.pem', client_ca_file = 'ca.pem'"
    text = with_top("[server]", f"listen = {{ address = '0.0.0.0:8443', {tls} }}")
    config = read(text, tmp_path)

    files = {name: str(tmp_path / f"{name[:-5]}.pem") for name in ("cert_file", "key_file")}
    assert config.server.listen == (
        Listen(address="0.0.0.0:8443", tls=TLSFiles(ca_file=str(tmp_path / "ca.pem"), **files)),
    )
    assert config.warnings == ()
    (tmp_path / "key.pem").chmod(0o644)
    assert [each.path for each in read(text, tmp_path).warnings] == ["server.listen[0].key_file"]


def test_where_other_proxies_ask(tmp_path: Path) -> None:
    """Off by default; beside a Unix socket only with a key or a certificate."""
    assert read(GOOD, tmp_path).forward_auth == ForwardAuth()
    routes = 'routes = ["books"]'
    found = read(
        with_top(
            "[forward_auth]", "listen = { address = 'unix:fa.sock', mode = '0660', group = 'root' }", routes
        ),
        tmp_path,
    ).forward_auth
    assert found == ForwardAuth(
        listen=(Listen(address=f"unix:{tmp_path}/fa.sock", mode=0o660, group="root", asks=True),),
        routes=frozenset({"books"}),
    )
    key = "[server.caller_auth]\nkeys = 'literal:0123456789abcdef'"
    found = read(with_top("[forward_auth]", "listen = '127.0.0.1:8082'", routes, key), tmp_path).forward_auth
    assert found.listen == (Listen(address="127.0.0.1:8082", asks=True),)


def test_hosts_are_kept_as_requests_write_them(tmp_path: Path) -> None:
    """Lower case, no closing dot, IPv6 in brackets: the data plane compares bytes."""
    names = '["A.Example.", "::1", "[FD00:0::1]", "10.0.0.1", "*.Internal"]'
    config = read(with_top("[server]", f"hosts = {names}"), tmp_path)

    assert config.server.hosts == {"a.example", "[::1]", "[fd00::1]", "10.0.0.1", "*.internal"}


def test_a_route_under_its_upstream_s_name_is_told_when_it_takes_few_paths(tmp_path: Path) -> None:
    """An app that takes us for its proxy asks for the upstream's own paths, which do not begin with a route's name."""
    lines = [f'host = "{name}.example.com"' for name in ("api", "other")]

    assert [[each.message for each in read(with_route(line), tmp_path).warnings] for line in lines] == [
        ['takes only http://api.example.com/books/...; prefix = "/" takes every path there'],
        [],
    ]
    assert read(with_route(lines[0], 'prefix = "/"'), tmp_path).warnings == ()


def test_odd_but_working_settings_are_warnings(tmp_path: Path) -> None:
    """``check`` says them, ``serve`` starts."""
    config = read(
        with_top(
            "[server]",
            "allow_unauthenticated = true",
            'caller_auth.keys = "literal:0123456789abcdef"',
            "[admin]",
            'listen = "0.0.0.0:9100"',
            "insecure_http = true",
            "[providers.deskera]",
            'client_auth = "none"',
        ),
        tmp_path,
    )

    assert [str(each) for each in config.warnings] == [
        "server.allow_unauthenticated: has no effect: caller_auth.keys asks every caller for a key   line 2",
        "admin.listen: 0.0.0.0:9100 can be reached from other machines; for health and metrics alone there is [metrics] listen   line 5",
        'accounts.books.client_secret: is never sent: "deskera" has client_auth = "none"   line 12',
    ]
    assert config.admin.public_url == "http://127.0.0.1:9100"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (5, 5.0),
        (0.5, 0.5),
        ("30 s", 30.0),
        ("30s", 30.0),
        ("500 ms", 0.5),
        ("1.5 h", 5400.0),
        ("2 d", 172800.0),
    ],
)
def test_durations(written: Any, seconds: float) -> None:
    assert units.seconds(written) == seconds


@pytest.mark.parametrize(
    ("written", "size"),
    [(5, 5), ("5 B", 5), ("1 KiB", 1024), ("1.5 MiB", 3 * 2**19), ("2GiB", 2**31), (1024.0, 1024)],
)
def test_sizes(written: Any, size: int) -> None:
    assert units.size(written) == size


@pytest.mark.parametrize(
    "written", ["", "s", "1  s", "-1 s", "1e3 s", "1 S", "9" * 30 + " s", "\u0661 s", True, None, []]
)
def test_what_is_neither_is_refused(written: Any) -> None:
    """Never a traceback, never a guess."""
    for read_unit in (units.seconds, units.size):
        with pytest.raises(ValueError, match="must be"):
            read_unit(written)


def test_load_reads_the_file_and_looks_at_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a relative path too; editors of other systems put a mark before the first byte and CR LF at line ends."""
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    path.chmod(0o600)
    monkeypatch.chdir(tmp_path)

    config = load(Path("config.toml"), {})

    assert (config.path, config.warnings) == (path, ())
    path.chmod(0o644)
    assert [str(each) for each in load(path, {}).warnings] == [
        f"accounts.books.client_secret: others on this machine can read this file: chmod 600 {path}   line 4"
    ]
    path.chmod(0o602)
    assert [str(each) for each in load(path, {}).warnings] == [
        f"everybody on this machine can change this file: chmod o-w {path}"
    ]
    path.chmod(0o644)
    assert load(path, {"TOKENPROXY_ACCOUNTS__BOOKS__CLIENT_SECRET": "literal:from-elsewhere"}).warnings == ()


def test_files_that_are_no_config(tmp_path: Path) -> None:
    """Each is one sentence, and a missing one says what makes it."""
    with pytest.raises(ConfigError, match="cannot be read: No such file") as missing:
        load(tmp_path / "config.toml", {})
    assert missing.value.next_step == "tokenproxy init"
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match="is not UTF-8 text   line 2"):
        load(tmp_path / "latin.toml", {})


def test_two_hundred_routes_load_at_once(tmp_path: Path) -> None:
    """A reload must not be felt: each route costs as little as the one before it."""
    read(GOOD, tmp_path)

    few, many = (_calls_to_read(_routes(number), tmp_path) for number in (100, 200))

    assert many < 2.3 * few
    assert many < 200 * 1000  # 20 ms


def _routes(number: int) -> str:
    return GOOD + "".join(
        f'[routes.r{each}]\nupstream = "https://api.example.com/{each}"\naccount = "books"\n'
        f'origins = ["https://a.example"]\nreplay = {{ memory = "2 MiB" }}\n'
        for each in range(number)
    )


def _calls_to_read(text: str, base: Path) -> int:
    """Functions called meanwhile: work, which is the same on a busy machine, and not seconds."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        config = read(text, base)
    finally:
        sys.setprofile(before)
    assert len(config.routes) == text.count("[routes.")
    return calls


def test_pydantic_is_imported_only_when_a_config_is_read() -> None:
    """``tokenproxy --help`` answers in 0.15 s."""
    code = "import sys, tokenproxy.config; sys.exit('pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# ---- the two pages that show every key


def example(tmp_path: Path, *, whole: bool) -> Config:
    """``config.example.toml``; ``whole``: with every line in force that it only shows."""
    text = (ROOT / "config.example.toml").read_text()
    if whole:
        text = re.sub(r"(?m)^#(?=[a-z\[])", "", text)
        ways = '["unix:p.sock", { address = "127.0.0.1:8443", cert_file = "client.pem", client_ca_file = "corp-ca.pem" }]'
        text = text.replace('listen = "127.0.0.1:8080"', f"listen = {ways}")  # for certificates and peers
    (tmp_path / "secrets").mkdir()
    listeners = [f"{name}.{kind}" for name in ("admin", "metrics") for kind in ("pem", "key")]
    authorities = ["operators-ca.pem", "scrapers-ca.pem", "corp-ca.pem"]
    for name in ("secrets/perscom", "secrets/callers", "client.pem", "client.key", *authorities, *listeners):
        (tmp_path / name).write_text("a-secret-of-good-length\n")
        (tmp_path / name).chmod(0o600)
    for name, content in (
        ("billing-key", "another-of-good-length"),
        ("billing", "secret"),
        ("cluster-token", "another-secret"),
        ("jwks.json", "{}"),
        ("billing-hash", str(PasswordHash.made("secret", salt=b"0123456789abcdef"))),
    ):
        (tmp_path / "secrets" / name).write_text(content)
        (tmp_path / "secrets" / name).chmod(0o600)
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(
        path,
        {
            **os.environ,
            "DESKERA_SECRET": "x",
            "ACME_SECRET": "y",
            "ACME_PASSWORD": "z",
            "ADMIN_TOKEN": "a" * 16,
            "ACME_API_KEY": "k",
            "PROXY_PASSWORD": "p",
        },
    )


def test_the_example_loads_as_it_is(tmp_path: Path) -> None:
    """People start from it."""
    config = example(tmp_path, whole=False)

    assert [route.name for route in config.routes] == ["books", "roster", "acme"]
    assert config.warnings == ()


def test_the_example_loads_with_every_line_in_force(tmp_path: Path) -> None:
    """Whatever a person uncomments works."""
    config = example(tmp_path, whole=True)

    assert config.accounts["acme"].provider.refresh_url == "https://api.acme.example/refresh"
    assert [each.path for each in config.warnings] == [  # files of other programs, which are not there yet
        "accounts.exchanged.subject_token",
        "accounts.exchanged.actor_token",
        "accounts.sidecar.token",
    ]


def keys_of(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a parsed file, names put in one."""
    for name, value in table.items():
        path = f"{prefix}.{name}" if prefix else name
        if prefix in NAMED:
            path = f"{prefix}.NAME"
        yield path
        if isinstance(value, dict):
            yield from keys_of(value, path)


def test_the_example_shows_every_key() -> None:
    """A key that is not shown is not found."""
    text = (ROOT / "config.example.toml").read_text()

    shown = set(keys_of(tomllib.loads(re.sub(r"(?m)^#(?=[a-z\[])", "", text))))

    assert {setting.path for setting in every_setting()} <= shown


def documented() -> dict[str, tuple[str, str]]:
    rows = re.findall(
        r"(?m)^\| `([a-z_]+\.[^`]+)` \|([^|]*)\|([^|]*)\|", (ROOT / "docs" / "config.md").read_text()
    )
    return {key: (kind.strip(), default.strip().strip("`")) for key, kind, default in rows}


def written(setting: Any, default: str) -> Any:
    """A default as the page shows it, as the code has it."""
    if default in {REQUIRED, DEPENDS}:
        return default
    if default == "none":
        return None
    value = tomllib.loads(f"value = {default}")["value"]
    match setting.type:
        case "size":
            return units.size(value)
        case "duration":
            return units.seconds(value)
        case "text, table or list" | "text or list" | "secret or list":
            return [value] if isinstance(value, str) else value
        case _:
            return value


def test_the_reference_page_and_the_code_say_the_same() -> None:
    """Every key, its type and its default, both ways."""
    page = documented()
    code = {setting.path: setting for setting in every_setting()}

    assert page.keys() == code.keys()
    for path, (kind, default) in page.items():
        assert (path, kind) == (path, code[path].type)
        assert (path, written(code[path], default)) == (path, code[path].default)


def test_a_token_that_is_there_needs_no_provider(tmp_path: Path) -> None:
    """Two lines make an account; a provider's table that only says where the token goes needs no endpoint."""
    config = read(
        """\
[accounts.bare]
grant = "static"
token = "literal:abc"
[accounts.sidecar]
grant = "file"
provider = "acme"
token = "file:token"
[providers.acme]
inject = { header = "x-token", value = "{access_token}" }
[routes.bare]
upstream = "https://api.example.com"
account = "bare"
""",
        tmp_path,
    )

    bare, sidecar = config.accounts["bare"], config.accounts["sidecar"]
    assert (bare.token, bare.provider.inject.value) == ("abc", "Bearer {access_token}")
    assert (sidecar.token_from, sidecar.provider.inject.header) == ("file:token", "x-token")
    assert "abc" not in repr(config)
    assert [str(each) for each in config.warnings if "yet" in each.message] == [
        f"accounts.sidecar.token: there is no {tmp_path / 'token'} yet; it is read when it is needed   line 7"
    ]


def test_a_token_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Whoever writes it decides whose account the app works on; told now, not at the first request."""
    (tmp_path / "token").touch()
    (tmp_path / "token").chmod(0o622)
    text = '[accounts.bare]\ngrant = "file"\ntoken = "file:token"\n'
    route = '[routes.bare]\nupstream = "https://api.example.com"\naccount = "bare"\n'

    with pytest.raises(ConfigError, match="can be changed by others: chmod go-w"):
        read(text + route, tmp_path)


def test_what_a_machine_asks_with(tmp_path: Path) -> None:
    """Secrets are opened now; what is shown to the endpoint is opened when it is asked."""
    config = read(
        GOOD.replace(
            'provider = "deskera"',
            'provider = "deskera"\ngrant = "token_exchange"\naudience = "api"\nsubject_token = "file:not-there-yet"\n'
            'subject_token_type = "urn:x"\nactor_token = "env:ACTOR"\nactor_token_type = "urn:y"\n'
            'requested_token_type = "urn:z"',
        ),
        tmp_path,
    )

    account = config.accounts["books"]
    assert dict(account.params) == {
        "audience": "api",
        "subject_token_type": "urn:x",
        "actor_token_type": "urn:y",
        "requested_token_type": "urn:z",
    }
    assert dict(account.presented) == {"subject_token": "file:not-there-yet", "actor_token": "env:ACTOR"}
    assert account.bound_to.startswith("token_exchange https://api-staging.deskera.xyz:443 cl_pub_1234 ")


def test_a_header_may_be_a_secret(tmp_path: Path) -> None:
    """Which is then hidden like any other, and shows in no repr."""
    text = (
        GOOD
        + 'request_headers = { set = { "X-Api-Key" = "env:KEY", "X-Tenant" = "acme" }, remove = ["Cookie"] }\n'
    )
    (route,) = read(text, tmp_path, {"KEY": "planted-8f3a"}).routes

    assert route.request_headers.replaced == (("X-Api-Key", "planted-8f3a"), ("X-Tenant", "acme"))
    assert route.secrets == ("planted-8f3a",)
    assert "planted-8f3a" not in repr(route)
