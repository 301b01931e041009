"""Where secrets come from, and that they go nowhere else."""

from __future__ import annotations

import base64
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.config.reading import GOOD, mistakes, read, with_top
from tokenproxy.config import Config, SecretError, read_keys, resolve
from tokenproxy.errors import StoreError

AT = "accounts.books.client_secret: "


def kept_at(source: str) -> str:
    return GOOD.replace("literal:s3cr3t", source.replace("\\", "\\\\").replace('"', '\\"'))


def secret_of(config: Config) -> str:
    return config.accounts["books"].registration.client_secret


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("written", "secret"),
    [("s3cr3t\n", "s3cr3t"), ("s3cr3t\r\n", "s3cr3t"), ("s3cr3t\n\n", "s3cr3t\n"), (" x ", " x ")],
)
def test_a_file_beside_the_config(written: str, secret: str, tmp_path: Path) -> None:
    """Editors end files with a line break; anything else may belong to the secret."""
    write(tmp_path / "books.secret", written)

    config = read(kept_at("file:books.secret"), tmp_path)

    assert secret_of(config) == secret
    assert secret_of(read(kept_at(f"file:{tmp_path}/books.secret"), tmp_path / "elsewhere")) == secret
    assert [str(each) for each in config.warnings] == [
        f"{AT}begins or ends with white space, which is taken as part of it   line 4"
    ] * (secret != "s3cr3t")


def test_what_others_can_change_is_refused_and_what_they_can_read_is_told(tmp_path: Path) -> None:
    """Who can change the file chooses our client; who can read it is a thing to know."""
    path = write(tmp_path / "a secret", "s3cr3t", 0o620)
    assert mistakes(kept_at("file:a secret"), tmp_path) == [
        f"{AT}{path} can be changed by others: chmod go-w '{path}'   line 4"
    ]

    path.chmod(0o644)
    config = read(kept_at("file:a secret"), tmp_path)

    assert secret_of(config) == "s3cr3t"
    assert [str(each) for each in config.warnings] == [
        f"{AT}{path} can be read by others on this machine: chmod 600 '{path}'   line 4"
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A pipe must not hang the start, and every refusal is one sentence."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    write(tmp_path / "empty", "\n")
    write(tmp_path / "large", "x" * (1024 * 1024 + 1))
    (tmp_path / "binary").write_bytes(b"s3cr3t\xff")
    (tmp_path / "binary").chmod(0o600)

    assert mistakes(kept_at("file:none"), tmp_path) == [
        f"{AT}cannot read {tmp_path}/none: No such file or directory   line 4"
    ]
    assert mistakes(kept_at("file:pipe"), tmp_path) == [f"{AT}{tmp_path}/pipe is not a regular file   line 4"]
    assert mistakes(kept_at("file:."), tmp_path) == [f"{AT}cannot read {tmp_path}: Is a directory   line 4"]
    assert mistakes(kept_at("file:empty"), tmp_path) == [f"{AT}is empty   line 4"]
    assert mistakes(kept_at("file:large"), tmp_path) == [f"{AT}is longer than 1 MiB   line 4"]
    assert mistakes(kept_at("file:binary"), tmp_path) == [f"{AT}is not UTF-8 text   line 4"]
    assert mistakes(kept_at("file:"), tmp_path) == [f"{AT}has nothing after file:   line 4"]


def test_an_environment_variable(tmp_path: Path) -> None:
    """Of the environment that the load was given, not the process's."""
    assert secret_of(read(kept_at("env:BOOKS"), tmp_path, {"BOOKS": "s3cr3t"})) == "s3cr3t"
    assert mistakes(kept_at("env:BOOKS"), tmp_path) == [f"{AT}environment variable BOOKS is not set   line 4"]
    assert mistakes(kept_at("env:BOOKS"), tmp_path, {"BOOKS": ""}) == [f"{AT}is empty   line 4"]


def test_a_credential_of_systemd(tmp_path: Path) -> None:
    """Its folder is systemd's own, so its modes are none of our business, but a way out of it is."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    write(folder / "books", "s3cr3t\n", 0o444)
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}

    config = read(kept_at("systemd:books"), tmp_path, environ)

    assert (secret_of(config), config.warnings) == ("s3cr3t", ())
    assert mistakes(kept_at("systemd:books"), tmp_path) == [
        f"{AT}needs $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=   line 4"
    ]
    assert mistakes(kept_at("systemd:../x"), tmp_path, environ) == [
        f"{AT}names a credential of systemd, not a path   line 4"
    ]


def test_a_command_runs_once_a_load_and_without_a_shell(tmp_path: Path) -> None:
    """A vault may ask a person for each call; a shell would make every secret's name a program."""
    script = tmp_path / "count.py"
    script.write_text("import sys\nopen('ran', 'a').write('x')\nprint(sys.argv[1])\n")
    command = f"cmd:{sys.executable} count.py '$HOME; s3cr3t'"
    text = kept_at(command) + kept_at(command).replace("books", "more")

    config = read(text, tmp_path)

    assert secret_of(config) == "$HOME; s3cr3t"
    assert (tmp_path / "ran").read_text() == "x"


def test_commands_that_fail(tmp_path: Path) -> None:
    """What a command printed may be a secret; only its name and status are told."""
    failing = f'cmd:{sys.executable} -c \'import sys; print("hunter2"); sys.exit("hunter2")\''

    assert mistakes(kept_at(failing), tmp_path) == [
        f'{AT}"{sys.executable}" ended with status 1; run it by hand to see why   line 4'
    ]
    assert mistakes(kept_at("cmd:/no/vault get x"), tmp_path) == [
        f'{AT}cannot run "/no/vault": No such file or directory   line 4'
    ]
    assert mistakes(kept_at("cmd:vault 'x"), tmp_path) == [f"{AT}has a quote without its other half   line 4"]


def test_a_command_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grandchild that holds the pipe open must not hold us."""
    monkeypatch.setattr("tokenproxy.config.secrets._COMMAND_SECONDS", 0.2)
    started = time.monotonic()

    with pytest.raises(SecretError, match=r'"sh" took longer than 10 s'):
        resolve("cmd:sh -c 'sleep 30 & sleep 30'", base=tmp_path, environ=os.environ)

    assert time.monotonic() - started < 10


def test_caller_keys_one_a_line_from_several_places(tmp_path: Path) -> None:
    """Two callers, two keys: one can be taken away without the other."""
    write(tmp_path / "callers", "first-key-of-good-length\n\n  second-key-of-good-length \n")
    text = with_top(
        "[server]",
        'listen = "0.0.0.0:8080"',
        'caller_auth.keys = ["file:callers", "literal:first-key-of-good-length", "literal:short"]',
    )

    config = read(text, tmp_path)

    assert config.server.caller_keys == ("first-key-of-good-length", "second-key-of-good-length", "short")
    assert [str(each) for each in config.warnings] == [
        "server.caller_auth.keys[2]: holds a key shorter than 16 characters, which can be guessed   line 3"
    ]


def test_no_secret_is_in_a_config_s_repr(tmp_path: Path) -> None:
    """Configs end up in debug logs and tracebacks."""
    config = read(
        with_top(
            '[server]\ncaller_auth.keys = ["literal:hunter2-for-callers"]',
            "[store]",
            'key = "cmd:vault hunter2"',
        ),
        tmp_path,
    )

    def texts(value: Any) -> str:
        inner = (
            [getattr(value, each.name) for each in dataclasses.fields(value)]
            if dataclasses.is_dataclass(value)
            else []
        )
        return repr(value) + "".join(map(repr, inner))

    assert "hunter2" not in repr(config)
    assert "s3cr3t" not in repr(config)
    assert "s3cr3t" not in texts(config.accounts["books"])


def key(fill: int) -> str:
    return base64.b64encode(bytes([fill]) * 32).decode()


def test_store_keys_in_order(tmp_path: Path) -> None:
    """The first seals, all open; a rotation keeps both in one file."""
    write(tmp_path / "new.key", f"{key(3)}\n\n{key(1)}\n")
    config = read(with_top("[store]", 'key = ["file:new.key", "env:OLD"]'), tmp_path)

    keys = read_keys(config.store, {"OLD": key(2)})

    assert keys == [b"\x03" * 32, b"\x01" * 32, b"\x02" * 32]
    assert [spec.path for spec in config.store.keys] == [tmp_path / "new.key", None]


def test_without_a_key_it_lies_beside_the_store_and_nothing_is_made(tmp_path: Path) -> None:
    """Making it is the first start's business; a check must leave no trace."""
    config = read(with_top("[store]", 'url = "sqlite:data/tokens.db"'), tmp_path)

    assert config.store.path == tmp_path / "data" / "tokens.db"
    assert config.store.url == f"sqlite:{tmp_path}/data/tokens.db"
    assert [spec.path for spec in config.store.keys] == [tmp_path / "data" / "tokenproxy.key"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="No such file"):
        read_keys(config.store, {})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("not base64!", "is not base64; a key is 32 bytes in base64"),
        ("AAAA", "has 3 bytes; a key is 32 bytes in base64"),
        ("", "is empty"),
        (f"{key(1)}\nAAAA", "line 2: has 3 bytes; a key is 32 bytes in base64"),
    ],
    ids=["words", "short", "empty", "second"],
)
def test_a_key_that_is_none(written: str, said: str, tmp_path: Path) -> None:
    """One clear sentence, with the file, and nothing of what is in it."""
    path = write(tmp_path / "tokenproxy.key", written)

    with pytest.raises(StoreError) as refused:
        read_keys(read(GOOD, tmp_path).store, {})

    assert said in refused.value.message
    assert str(path) in refused.value.message
    assert not any(word in refused.value.message for word in ("not base64!", "AAAA", key(1)))


def test_a_key_file_that_others_can_change_is_refused_by_check(tmp_path: Path) -> None:
    """Before anything is sealed with it."""
    path = write(tmp_path / "tokenproxy.key", key(1), 0o666)
    assert mistakes(GOOD, tmp_path) == [f"store.key: {path} can be changed by others: chmod go-w {path}"]

    path.chmod(0o640)
    assert [each.path for each in read(GOOD, tmp_path).warnings] == ["store.key"]


def test_a_command_that_never_stops_printing_takes_no_memory(tmp_path: Path) -> None:
    """``cmd:yes`` is a slip of the keyboard, and must not cost the process."""
    with pytest.raises(SecretError, match="printed more than 1 MiB"):
        resolve("cmd:yes", base=tmp_path, environ=os.environ)
