"""``[callers.*]`` and ``auth``: what they come to, and the sentence for each mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.config.reading import GOOD, mistakes, read, with_route, with_top
from tokenproxy.core.callers import Caller, Certificate, Login, Peer, Subject
from tokenproxy.core.issuers import Issuer
from tokenproxy.core.passwords import PasswordHash

KEY = 'key = "literal:a-key-of-good-length"'
HASH = str(PasswordHash.made("secret", salt=b"0123456789abcdef"))


def test_a_caller_with_every_way(tmp_path: Path) -> None:
    for name in ("cert.pem", "ca.pem"):
        (tmp_path / name).touch(mode=0o600)
    config = read(
        with_top(
            "[server]",
            'listen = [{ address = "127.0.0.1:1", cert_file = "cert.pem", client_ca_file = "ca.pem", '
            'client_certificate = "optional", auth = "certificate" }, { address = "unix:p.sock", auth = "none" }]',
            "[callers.app]",
            'key = ["literal:a-key-of-good-length", "literal:another-of-good-length"]',
            f'basic = {{ username = "app", password = "env:PW", password_hash = "{HASH}" }}',
            'certificate = { cn = "App", dns = ["App.Internal"], uri = "spiffe://a/b", email = "a@b.example" }',
            'peer = { users = ["root", 7], groups = "8" }',
            'routes = ["books"]',
            'accounts = ["books", "books/anna", "books/*"]',
            "per_second = 2.5",
            "burst = 4",
            "in_flight = 3",
        )
        + 'auth = ["basic", "key"]\n',
        tmp_path,
        {"PW": "s3cret"},
    )

    assert config.callers == (
        Caller(
            name="app",
            keys=("a-key-of-good-length", "another-of-good-length"),
            login=Login(username="app", passwords=("s3cret",), hashes=(PasswordHash.of(HASH),)),
            certificate=Certificate(
                cn=frozenset({"App"}),
                dns=frozenset({"app.internal"}),
                uri=frozenset({"spiffe://a/b"}),
                email=frozenset({"a@b.example"}),
            ),
            peer=Peer(users=frozenset({0, 7}), groups=frozenset({8})),
            routes=frozenset({"books"}),
            accounts=("books", "books/anna", "books/*"),
            per_second=2.5,
            burst=4,
            in_flight=3,
        ),
    )
    assert [listen.auth for listen in config.server.listen] == [frozenset({"certificate"}), frozenset()]
    assert [listen.client_optional for listen in config.server.listen] == [True, False]
    assert config.routes[0].auth == frozenset({"basic", "key"})
    assert "s3cret" not in repr(config)
    assert "a-key-of-good-length" not in repr(config)


def test_callers_stand_in_for_keys_beyond_loopback(tmp_path: Path) -> None:
    listen = 'listen = "0.0.0.0:8080"'
    assert read(with_top("[server]", listen, "[callers.app]", KEY), tmp_path).callers
    for auth, others in (('"none"', ()), ('["key"]', ("[callers.app]", KEY))):
        entry = f'listen = {{ address = "0.0.0.0:8080", auth = {auth} }}'
        text = with_top("[server]", entry, *others)
        if others:
            assert read(text, tmp_path).server.listen[0].auth == frozenset({"key"})
        else:
            assert mistakes(text, tmp_path)[0].startswith("server.listen: 0.0.0.0:8080 can be reached")
    warned = read(
        with_top("[server]", "allow_unauthenticated = true", "[callers.app]", KEY), tmp_path
    ).warnings
    assert [each.message for each in warned if each.path == "server.allow_unauthenticated"] == [
        "has no effect: [callers.*] asks every caller who it is"
    ]


def test_passwords_in_clear_text_are_told(tmp_path: Path) -> None:
    lines = [
        "[server]",
        'listen = "0.0.0.0:8080"',
        "[callers.app]",
        'basic = { username = "a", password = "env:P" }',
    ]
    (warning,) = read(with_top(*lines), tmp_path, {"P": "secret"}).warnings
    assert warning.path == "server.listen[0]"
    assert warning.message.startswith("takes passwords over plain HTTP from other machines")


def test_callers_map_headers_to_accounts(tmp_path: Path) -> None:
    """A header names the account only where somebody says which are whose."""
    text = GOOD.replace('account = "books"', 'account = "books/{header:x-user}"')
    (route,) = read(f'{text}[callers.app]\n{KEY}\naccounts = ["books/*"]\n', tmp_path).routes
    assert route.mapped
    (told,) = mistakes(f"{text}[callers.app]\n{KEY}\n", tmp_path)
    assert "choose the account; name in accounts of [callers.*]" in told
    (told,) = mistakes(
        text.replace("[routes.books]", '[routes.books]\nauth = "none"')
        + f'[callers.app]\n{KEY}\naccounts = ["books/*"]\n',
        tmp_path,
    )
    assert told == (
        "routes.books.auth: lets everybody choose the account: leave it out, or say trust_account_header = true   line 7"
    )
    trusting = text + "trust_account_header = true\n"
    assert not read(f"{trusting}[callers.app]\n{KEY}\n", tmp_path).routes[0].mapped


def test_issuers(tmp_path: Path) -> None:
    (tmp_path / "keys.json").touch()
    config = read(
        with_top(
            "[issuers.cluster]",
            'issuer = "https://login.example/tenant"',
            'audience = ["tokenproxy", "proxy"]',
            'token = "env:TOKEN"',
            "[issuers.old]",
            'issuer = "kubernetes/serviceaccount"',
            'audience = "tokenproxy"',
            'jwks_file = "keys.json"',
            'algorithms = ["RS256"]',
            "[callers.app]",
            'jwt = { issuer = "cluster", subject = ["a", "b*"], claims = { azp = "robot" } }',
        ),
        tmp_path,
        {"TOKEN": "s3cret"},
    )
    assert config.issuers == (
        Issuer(
            name="cluster",
            issuer="https://login.example/tenant",
            audiences=("tokenproxy", "proxy"),
            token="env:TOKEN",
        ),
        Issuer(
            name="old",
            issuer="kubernetes/serviceaccount",
            audiences=("tokenproxy",),
            jwks_file=str(tmp_path / "keys.json"),
            algorithms=("RS256",),
        ),
    )
    assert config.callers[0].subject == Subject(
        issuer="cluster", subjects=frozenset({"a", "b*"}), claims={"azp": "robot"}
    )


ISSUER = '[issuers.cluster]\nissuer = "https://login.example"\naudience = "a"'
CASES = [
    (["[callers.app]", 'jwt = { issuer = "clustr", subject = "a" }', ISSUER], ['callers.app.jwt.issuer: no issuer "clustr". Did you mean "cluster"?   line 10']),
    (["[callers.app]", 'jwt = { subject = "a" }'], ["callers.app.jwt.issuer: is missing: the name of a table [issuers.NAME]   line 10"]),
    (["[callers.app]", 'jwt = { issuer = "cluster" }', ISSUER], ['callers.app.jwt.subject: is missing, or claims: whose tokens are this caller\'s; "*" is everybody\'s   line 10']),
    (["[callers.app]", 'jwt = { issuer = "cluster", subject = "a*b" }', ISSUER], ["callers.app.jwt.subject[0]: may have a * at its end only   line 10"]),
    (["[callers.a]", 'jwt = { issuer = "cluster", subject = "s" }', "[callers.b]", 'jwt = { issuer = "cluster", subject = "s" }', ISSUER], ['callers.b.jwt.subject: "s" is that of callers.a (line 9)   line 12']),
    (["[issuers.cluster]"], ["issuers.cluster.issuer: is missing: what iss of its tokens is, letter by letter   line 9", "issuers.cluster.audience: is missing: a word for this proxy that aud of its tokens holds, so that no other counts   line 9"]),
    ([ISSUER, "[issuers.b]", 'issuer = "https://login.example"', 'audience = "b"'], ["issuers.b.issuer: is that of issuers.cluster (line 9)   line 13"]),
    ([ISSUER, 'algorithms = ["HS256"]'], ['issuers.cluster.algorithms[0]: "HS256" is not an algorithm with a public key. Did you mean "RS256"?   line 12']),
    ([ISSUER, 'jwks_url = "http://keys.example"'], ["issuers.cluster.jwks_url: is plain http:// beyond loopback; use https://, or say insecure_http = true   line 12"]),
    ([ISSUER, 'jwks_file = "no.json"'], ["issuers.cluster.jwks_file: no such file: BASE/no.json   line 12"]),
    ([ISSUER, 'token = "env:NOT"'], ["issuers.cluster.token: environment variable NOT is not set   line 12"]),
    ([ISSUER.replace("https://login.example", "kubernetes/serviceaccount")], ['issuers.cluster.issuer: must be a URL such as "https://api.example.com"; or say where its keys are with jwks_url or jwks_file   line 10']),
    (["[callers.app]"], ["callers.app: has no way to prove itself: key, basic, certificate, peer or jwt   line 9"]),
    (["[callers.app]", KEY, 'routes = ["boks"]'], ['callers.app.routes[0]: no route "boks". Did you mean "books"?   line 11']),
    (["[callers.app]", KEY, "routes = []"], ["callers.app.routes: must not be empty   line 11"]),
    (["[callers.app]", KEY, 'accounts = ["boks"]'], ['callers.app.accounts[0]: no account "boks". Did you mean "books"?   line 11']),
    (["[callers.app]", KEY, 'accounts = ["books/a b"]'], ['callers.app.accounts[0]: must be NAME, NAME/SUB or "NAME/*", got "books/a b"   line 11']),
    (["[callers.app]", 'key = "env:NOT"'], ["callers.app.key[0]: environment variable NOT is not set   line 10"]),
    (["[callers.app]", KEY, "burst = 3"], ["callers.app.burst: needs per_second beside it   line 11"]),
    (["[callers.app]", KEY, "in_flight = 5000"], ["callers.app.in_flight: must be at most limits.in_flight (1024), got 5000   line 11"]),
    (["[callers.app]", 'basic = { password = "literal:x" }'], ["callers.app.basic.username: is missing: the user name that goes with the password   line 10"]),
    (["[callers.app]", 'basic = { username = "a" }'], ["callers.app.basic.password: is missing, or password_hash   line 10"]),
    (["[callers.app]", 'basic = { username = "a:b", password = "literal:x" }'], ["callers.app.basic.username: must not hold a colon, which ends it (RFC 7617)   line 10"]),
    (["[callers.app]", 'basic = { username = "a", password_hash = "hunter2" }'], ["callers.app.basic.password_hash[0]: is no hash as tokenproxy key password prints it: $scrypt$ln=15,r=8,p=1$SALT$HASH   line 10"]),
    (["[callers.app]", 'basic = { username = "a", password_hash = "env:HOME" }'], ["callers.app.basic.password_hash[0]: is no hash as tokenproxy key password prints it: $scrypt$ln=15,r=8,p=1$SALT$HASH   line 10"]),
    (["[callers.app]", 'certificate = { cn = "app" }'], ["callers.app.certificate: needs a listener that asks for one: client_ca_file on an entry of server.listen   line 10"]),
    (["[callers.app]", 'peer = { users = "root" }'], ['callers.app.peer: needs a Unix socket, which alone tells who connects: listen = "unix:PATH"   line 10']),
    (["[callers.app]", 'peer = { users = "no-such-user" }'], ['callers.app.peer.users[0]: this machine has no user "no-such-user"   line 10']),
    (["[callers.app]", "peer = { users = -1 }"], ["callers.app.peer.users: must be names or numbers, got -1   line 10"]),
    (["[callers.app]", KEY, "[callers.b]", KEY], ["callers.b.key: one of these keys is that of callers.app (line 9)   line 12"]),
    (["[callers.app]", KEY, "[callers.b]", 'basic = { username = "u", password = "literal:x" }', "[callers.c]", 'basic = { username = "u", password = "literal:y" }'], ['callers.c.basic.username: "u" is that of callers.b (line 11)   line 14']),
    (['auth = "certificate"', "[callers.app]", KEY], ['routes.books.auth: lists "certificate", and no caller proves itself so   line 9']),
    (['auth = "token"'], ['routes.books.auth: "token" is no way to prove who one is; "none" or a list of key, basic, certificate, peer or jwt is   line 9']),
    (["[callers.app]", 'peer = { users = "root" }', "[server]", 'listen = ["unix:p.sock", { address = "127.0.0.1:1", auth = "peer" }]'], ['server.listen[1].auth: lists "peer", and only a Unix socket tells who connects   line 12']),
    (["[callers.app]", KEY, "[[server.listen]]", 'address = "127.0.0.1:1"', 'auth = ["peer"]'], ['server.listen[0].auth: lists "peer", and no caller proves itself so   line 13']),
    (["[callers.app]", KEY, "[[server.listen]]", 'address = "127.0.0.1:1"', 'client_certificate = "optional"'], ["server.listen[0].client_certificate: needs client_ca_file beside it   line 13"]),
    (['auth = "none"', "[callers.app]", KEY, "[server]", 'listen = "0.0.0.0:1"'], ["routes.books.auth: lets in whoever reaches 0.0.0.0:1 from other machines; if you mean it, say server.allow_unauthenticated = true   line 9"]),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "told"), CASES, ids=[" ".join(lines)[:60] for lines, _ in CASES])
def test_mistakes_about_callers(lines: list[str], told: list[str], tmp_path: Path) -> None:
    environ = {"HOME": os.fspath(tmp_path)}
    found = [each.replace(str(tmp_path), "BASE") for each in mistakes(with_route(*lines), tmp_path, environ)]
    assert found == told
