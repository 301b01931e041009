"""What every command promises: fast where it must be, one sentence and a next step where it fails, and no secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.cli.conftest import Here
from tests.cli.program import environment, run
from tokenproxy import __version__
from tokenproxy.cli import root
from tokenproxy.cli.command import with_option

CONFIG = """\
[accounts.crm]
provider = "askara"
client_id = "x"
client_secret = "literal:planted-secret-0123"
[routes.crm]
upstream = "https://api.askara.ai"
account = "crm"
"""


def test_version() -> None:
    ended = run("--version")

    assert (ended.code, ended.out, ended.err) == (0, f"tokenproxy {__version__}\n", "")


@pytest.mark.parametrize(
    "words", [["--help"], ["serve", "--help"], ["completion", "bash"], ["healthcheck"], ["login"], ["nonsense"], ["explain", "3"]],
    ids=" ".join,
)  # fmt: skip
def test_what_must_be_fast_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    """A container asks for its health every few seconds, a shell for completions at every key press."""
    (tmp_path / "config.toml").write_text('[admin]\nlisten = "unix:nobody.sock"\n')
    code = (
        "import sys\nfrom tokenproxy.cli.root import run\n"
        f"run({words!r})\n"
        "print(sorted({'aiohttp', 'asyncio', 'pydantic', 'cryptography', 'sqlite3'} & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment(), capture_output=True, check=True, timeout=20,
    )  # fmt: skip

    assert ended.stdout.decode().splitlines()[-1] == "[]"


def test_completion_knows_commands_accounts_and_presets(tmp_path: Path) -> None:
    """From the config that the line names, and without importing what only a server needs."""
    (tmp_path / "other.toml").write_text(CONFIG.replace("crm", "payroll"))
    (tmp_path / "config.toml").write_text(CONFIG)

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        ended = run(
            cwd=tmp_path,
            env={"_TOKENPROXY_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        )  # fmt: skip
        return [each.partition(",")[2] for each in ended.out.split()]

    assert completed("tokenproxy re") == ["refresh", "rebind", "reload"]
    assert completed("tokenproxy lo") == ["login", "logout", "logs"]
    assert completed("tokenproxy refresh ") == ["crm"]
    assert completed("tokenproxy refresh --config other.toml p") == ["payroll"]
    assert completed("tokenproxy logs --route ") == ["crm"]
    assert completed("tokenproxy explain login_r") == ["login_required"]
    assert completed("tokenproxy explain config store.u") == ["store.url"]
    assert completed("tokenproxy init desk") == ["deskera", "deskera-live", "deskpro"]
    (tmp_path / "config.toml").write_text("[accounts")
    assert completed("tokenproxy refresh ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_the_program(shell: str, here: Here) -> None:
    ended = here("completion", shell)

    assert ended.code == 0
    assert f"_TOKENPROXY_COMPLETE={shell}_complete" in ended.out
    assert ended.err == ""


@pytest.mark.parametrize(
    ("words", "says", "step"),
    [
        (("stats",), "No such command 'stats'. Did you mean 'status'?", "tokenproxy --help"),
        (("status", "--jsn"), "No such option '--jsn'", "tokenproxy status --help"),
        (("refresh",), "Missing argument 'ACCOUNT'", "tokenproxy refresh --help"),
        (("demo", "--port", "99999"), "99999", "tokenproxy demo --help"),
        (("login", "--device"), "Missing argument 'ACCOUNT'", "tokenproxy login --help"),
        (("store", "backup"), "Missing argument 'FILE'", "tokenproxy store backup --help"),
        (("run",), "Missing argument", "tokenproxy run --help"),
        (("run", "--"), "Missing argument", "tokenproxy run --help"),
        (("logs", "--status", "6xx"), "is no status; write 404, or 5xx", "tokenproxy logs --help"),
        (("logs", "--since", "soon"), "is no time; write 10m", "tokenproxy logs --help"),
        (("logs", "--event", "token_renwed"), "Did you mean 'token_renewed'?", "tokenproxy explain"),
        (("status", "--config", "missing.toml"), "missing.toml: cannot be read", "tokenproxy init"),
        (("healthcheck", "--config", "missing.toml"), "missing.toml: cannot be read", "tokenproxy init"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_line_is_a_sentence_and_a_next_step(
    words: tuple[str, ...], says: str, step: str, here: Here
) -> None:
    ended = here(*words)
    first, second = ended.err.splitlines()

    assert ended.code == 2
    assert ended.out == ""
    assert first.startswith("tokenproxy: ")
    assert says in first
    assert second.startswith(f"Next:  {step}")


def test_without_a_command_there_is_help() -> None:
    ended = run()

    assert ended.code == 2
    assert "tokenproxy demo" in ended.err


def test_the_config_comes_from_the_option_else_the_environment_else_the_folder(
    tmp_path: Path, here: Here
) -> None:
    for name in ("config.toml", "b.toml", "c.toml"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(CONFIG)
    env = {"TOKENPROXY_CONFIG": "b.toml"}

    assert here("check").out.startswith("✓ config.toml ")
    assert here("check", env=env).out.startswith("✓ b.toml ")
    assert here("check", "--config", "c.toml", env=env).out.startswith("✓ c.toml ")
    assert here("check", env={"TOKENPROXY_QUIET": "1"}).out == ""
    assert here("check", env={"TOKENPROXY_JSON": "1"}).out.startswith("{")


def test_what_a_cluster_sets_for_a_service_of_our_name_is_no_option(tmp_path: Path, here: Here) -> None:
    """Kubernetes gives every pod TOKENPROXY_PORT=tcp://... where a service is called tokenproxy."""
    (tmp_path / "config.toml").write_text(CONFIG)
    env = {
        "TOKENPROXY_PORT": "tcp://10.0.0.1:8080",
        "TOKENPROXY_SERVICE_HOST": "10.0.0.1",
        "TOKENPROXY_VERSION": "1",
    }

    assert here("check", env=env).code == 0


@pytest.mark.parametrize("verbose", [False, True])
def test_a_mistake_of_ours_shows_no_secret(
    verbose: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected error's text may hold anything."""

    @click.command("broken")
    @click.option("--verbose", is_flag=True)
    def broken(verbose: bool) -> None:
        raise KeyError("refresh_token=planted-secret-0123")

    monkeypatch.setitem(root.program.commands, "broken", broken)
    code = root.run(["broken", "--verbose"] if verbose else ["broken"])
    told = capsys.readouterr()

    assert code == 1
    assert "a mistake in tokenproxy itself (KeyError)" in told.err
    assert ("Traceback" in told.err) is verbose
    assert "planted-secret" not in told.out + told.err


def test_verbose_shows_where_an_error_came_from(tmp_path: Path) -> None:
    ended = run("status", "--verbose", cwd=tmp_path)

    assert ended.code == 2
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1] == "Next:  tokenproxy init"


@pytest.mark.parametrize(
    ("step", "with_config"),
    [
        ("tokenproxy import crm/anna < answer.json", "tokenproxy import crm/anna --config c < answer.json"),
        ("tokenproxy login crm   (or: tokenproxy import crm < x)", "tokenproxy login crm --config c   (or: tokenproxy import crm --config c < x)"),
        ("tokenproxy rebind crm   (only if it is the same)", "tokenproxy rebind crm --config c   (only if it is the same)"),
        ("correct [accounts.crm], then: tokenproxy reload", "correct [accounts.crm], then: tokenproxy reload --config c"),
        ("tokenproxy key rotate makes a new key in it", "tokenproxy key rotate --config c makes a new key in it"),
        ("pip install 'tokenproxy[fast]'", "pip install 'tokenproxy[fast]'"),
        ("tokenproxy serve", "tokenproxy serve --config c"),
    ],
)  # fmt: skip
def test_a_next_step_means_the_same_config(step: str, with_config: str) -> None:
    """A command that is copied must not work on another file."""
    assert with_option(step, " --config c") == with_config
    assert with_option(step, "") == step
