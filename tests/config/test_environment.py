"""Every key is also a variable, and a misspelt variable is as loud as a misspelt key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.reading import GOOD, mistakes, read, with_top


def test_the_environment_wins_and_may_make_whole_tables(tmp_path: Path) -> None:
    """A container is configured without a file of its own."""
    config = read(
        GOOD,
        tmp_path,
        {
            "TOKENPROXY_SERVER__LISTEN": '["127.0.0.1:1", "[::1]:1"]',
            "TOKENPROXY_SERVER__HOSTS": '["a.example"]',
            "TOKENPROXY_SERVER__CALLER_AUTH__KEYS": "literal:a-key-of-good-length",
            "TOKENPROXY_ACCOUNTS__BOOKS__CLIENT_ID": "1234",
            "TOKENPROXY_ACCOUNTS__BOOKS__SCOPES": '["read"]',
            "TOKENPROXY_ROUTES__BOOKS__REPLAY__MEMORY": "2 MiB",
            "TOKENPROXY_ROUTES__BOOKS__PASS": '["cookie"]',
            "TOKENPROXY_ROUTES__CRM__UPSTREAM": "https://crm.example",
            "TOKENPROXY_ROUTES__CRM__ACCOUNT": "roster",
            "TOKENPROXY_ACCOUNTS__ROSTER__PROVIDER": "perscom",
            "TOKENPROXY_ACCOUNTS__ROSTER__VARS__DASHBOARD": "acme.perscom.io",
            "TOKENPROXY_ACCOUNTS__ROSTER__CLIENT_ID": "true",
            "TOKENPROXY_ACCOUNTS__ROSTER__CLIENT_SECRET": "literal:x",
            "TOKENPROXY_DEADLINES__HEAD": "3",
            "TOKENPROXY_LIMITS__IN_FLIGHT": "7",
            "TOKENPROXY_RENEW__PER_SECOND": "0.5",
        },
    )

    assert [each.address for each in config.server.listen] == ["127.0.0.1:1", "[::1]:1"]
    assert config.server.hosts == {"a.example"}
    assert config.server.caller_keys == ("a-key-of-good-length",)
    assert config.accounts["books"].registration.client_id == "1234"
    assert config.accounts["books"].scopes == ("read",)
    assert config.accounts["roster"].registration.client_id == "true"
    assert config.accounts["roster"].provider.token_url == "https://acme.perscom.io/oauth/token"
    assert {route.name: route.replay.memory for route in config.routes} == {"books": 2 * 2**20, "crm": 2**20}
    assert (config.deadlines.head, config.limits.in_flight, config.renew.per_second) == (3.0, 7, 0.5)


def test_names_are_matched_as_a_shell_can_write_them(tmp_path: Path) -> None:
    """A shell knows neither hyphens nor lower case in names that people look for."""
    text = GOOD.replace("[accounts.books]", "[accounts.My-Books]").replace('"books"\n', '"My-Books"\n')

    config = read(
        text,
        tmp_path,
        {
            "TOKENPROXY_ACCOUNTS__MY_BOOKS__CLIENT_ID": "other",
            "TOKENPROXY_PROVIDERS__DESKERA_LIVE__DOCS": "here",
            "TOKENPROXY_PROVIDERS__DESKERA__TOKEN_HEADERS": '{ Accept = "application/json" }',
        },
    )

    assert list(config.accounts) == ["My-Books"]
    assert config.accounts["My-Books"].registration.client_id == "other"
    assert config.accounts["My-Books"].provider.token_headers == {"Accept": "application/json"}


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """Kubernetes sets the first three for a service called tokenproxy; the others are our own commands' and tests'."""
    read(
        GOOD,
        tmp_path,
        {
            "TOKENPROXY_SERVICE_HOST": "10.0.0.1",
            "TOKENPROXY_PORT_8080_TCP_ADDR": "10.0.0.1",
            "TOKENPROXY_PORT": "tcp://10.0.0.1:8080",
            "TOKENPROXY_CONFIG": "config.toml",
            "TOKENPROXY_JSON": "1",
            "TOKENPROXY_TEST_POSTGRES__URL": "x",
            "TOKENPROXY_BENCH_A__B": "x",
            "PATH": "/bin",
        },
    )


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TOKENPROXY_SERVER__LISTN", "x", "unknown setting. Did you mean TOKENPROXY_SERVER__LISTEN?"),
        ("TOKENPROXY_SERVR__LISTEN", "x", "unknown setting. Did you mean TOKENPROXY_SERVER__LISTEN?"),
        ("TOKENPROXY_ROUTES__BOOKS__ACOUNT", "x", "unknown setting. Did you mean TOKENPROXY_ROUTES__BOOKS__ACCOUNT?"),
        ("TOKENPROXY_LOG__COLOUR", "x", "unknown setting. Known: access, format, level, slow"),
        ("TOKENPROXY_SERVER__LISTEN__PORT", "1", "TOKENPROXY_SERVER__LISTEN has no settings of its own"),
        ("TOKENPROXY_ROUTES__BOOKS", "{}", "names a table; name one of its settings"),
        ("TOKENPROXY_LIMITS__IN_FLIGHT", "many", 'must be a whole number, got "many"'),
        ("TOKENPROXY_SERVER__HOSTS", "a.example", 'must be a list such as ["a", "b"], got "a.example"'),
        ("TOKENPROXY_SERVER__HOSTS", '["a b"]', '"a b" is not a host name'),
        ("TOKENPROXY_ROUTES__BOOKS__ACCOUNT", "boks", 'no account "boks". Did you mean "books"?'),
        ("TOKENPROXY_ACCOUNTS__BOOKS__CLIENT_SECRET", "hunter2", "must begin with file:, env:, systemd:, cmd: or literal:"),
        ("TOKENPROXY_STORE__URL", "x\ny = 1", "must not hold control characters or line breaks"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_variable(variable: str, value: str, said: str, tmp_path: Path) -> None:
    """A line number of the file would send a person to the wrong place."""
    assert mistakes(GOOD, tmp_path, {variable: value}) == [f"{variable}: {said}"]


def test_a_name_that_could_be_two_tables_is_refused(tmp_path: Path) -> None:
    """Guessing would change the wrong account."""
    twins = '[accounts.a-b]\nprovider = "x"\n[accounts.a_b]\nprovider = "x"\n'

    told = mistakes(with_top() + twins, tmp_path, {"TOKENPROXY_ACCOUNTS__A_B__CLIENT_ID": "1"})

    assert told[-1] == "TOKENPROXY_ACCOUNTS__A_B__CLIENT_ID: could mean a-b or a_b; set it in the file"


def test_a_setting_in_the_way_of_a_table_is_told_once(tmp_path: Path) -> None:
    """The file says that ``log`` is a number; the variable cannot mend that."""
    assert mistakes(with_top("log = 1"), tmp_path, {"TOKENPROXY_LOG__LEVEL": "info"}) == [
        "log: must be a table, got 1   line 1"
    ]
