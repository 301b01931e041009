"""``init``: the first config and its key, asked step by step on a terminal, or from options."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tokenproxy.cli import peek
from tokenproxy.cli.catalogue import PresetName, matching, unknown_preset
from tokenproxy.cli.command import CONFIG, KEEP_A_COPY, Call, UnusableError, command, shown
from tokenproxy.cli.present import counted, table
from tokenproxy.errors import ConfigError, Problem, TokenproxyError

if TYPE_CHECKING:
    from tokenproxy.config import PresetInfo
    from tokenproxy.core.provider import Provider

WORDS: Final = ("file:", "env:", "systemd:", "cmd:")
"""Where a secret may lie; ``literal:`` would put it into the shell's history."""
OWN: Final = "another one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What goes into the config; None and missing vars stay marked CHANGE ME in it."""

    provider: str | None
    """A preset; None: a table of its own."""
    name: str
    upstream: str | None = None
    """None: the preset's API."""
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    """A source word."""
    secret: str | None = field(default=None, repr=False)
    """The secret itself, typed in by a person; goes into a file of its own."""
    vars: Mapping[str, str] = field(default_factory=dict)
    urls: Mapping[str, str] = field(default_factory=dict)
    """``token_url`` and ``authorize_url`` of a provider that is no preset; an empty one is left out."""


@command("init")
@click.argument("preset", required=False, type=PresetName(), metavar="[PROVIDER]")
@click.option("--provider", type=PresetName(), metavar="PROVIDER", help="The same as the argument.")
@click.option("--name", help="Of the account and its route; default: the provider's.")
@click.option(
    "--upstream", metavar="URL", help="The API that legacy apps should reach; default: the preset's."
)
@click.option("--client-id", help="What the provider calls this client.")
@click.option(
    "--client-secret",
    metavar="SOURCE",
    help="Where the secret lies: file:PATH, env:NAME, systemd:NAME or cmd:...",
)
@click.option("--var", multiple=True, metavar="KEY=VALUE", help="Fills {KEY} in the preset's addresses.")
@click.option("--yes", is_flag=True, help="Ask nothing; what is not given is marked CHANGE ME.")
@click.option("--force", is_flag=True, help="Replace a config that is there already.")
def init(
    call: Call,
    *,
    preset: str | None,
    provider: str | None,
    name: str | None,
    upstream: str | None,
    client_id: str | None,
    client_secret: str | None,
    var: tuple[str, ...],
    yes: bool,
    force: bool,
) -> None:
    """
    Write a config and a key, step by step or from options.

    \b
      tokenproxy init
      tokenproxy init deskera --name books --upstream https://api-staging.deskera.xyz \\
          --client-id cl_pub_1234 --client-secret env:DESKERA_SECRET --yes

    PROVIDER is one of tokenproxy presets. Nothing is sent anywhere.
    """  # noqa: D301 - \b is click's
    from tokenproxy import config

    if preset and provider and preset != provider:
        raise UnusableError(f"two providers were given, {preset} and {provider}")
    if call.config.exists() and not force:
        raise UnusableError(
            f"{call.config} is there already; nothing was changed",
            next_step="tokenproxy check, or init with --force to replace it",
        )
    given = Answers(
        provider=preset or provider,
        name=name or "",
        upstream=upstream,
        client_id=client_id,
        client_secret=_source(client_secret),
        vars=_vars(var),
    )
    if given.provider is not None and given.provider not in config.preset_names():
        raise unknown_preset(given.provider)
    asking = not yes and sys.stdin.isatty()
    if given.provider or not asking:
        _refuse_wrong(given)
    answers = _asked(call, given) if asking else replace(given, name=given.name or given.provider or "api")
    _refuse_wrong(answers)
    _write_all(call, answers, force=force)


def _source(text: str | None) -> str | None:
    if text is not None and not text.startswith(WORDS):
        raise UnusableError(
            f"--client-secret takes where the secret lies, not the secret: {', '.join(WORDS[:-1])} or {WORDS[-1]}",
            next_step="tokenproxy init --client-secret file:client.secret ...",
        )
    return text


def _refuse_wrong(answers: Answers) -> None:
    """Of options: there is no file yet whose lines could be named."""
    if wrong := _problems(answers):
        told = "; ".join(f"{each.path.rpartition('.')[2]}: {each.message}" for each in wrong)
        raise UnusableError(told, next_step="tokenproxy init --help")


def _vars(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise UnusableError(
                "--var takes KEY=VALUE", next_step="tokenproxy init --var dashboard=acme.perscom.io ..."
            )
        found[key] = value
    return found


# -- questions ---------------------------------------------------------------------------------------------------------


def _asked(call: Call, given: Answers) -> Answers:
    """Ask for what was not given; each answer is judged by the config's own rules before the next question."""
    folder = call.config.absolute().parent
    where = "the current folder" if folder == Path.cwd() else str(folder)
    call.out.note(f"This writes {call.config.name} and a key file into {where}. Nothing is sent anywhere.\n")
    answers = given if given.provider else replace(given, provider=_choose(call))
    info = _info(answers.provider)
    for key in info.vars if info else ():
        if key not in answers.vars:
            answers = _ask_var(answers, key, info)
    if not answers.upstream:
        question = "Which API should legacy apps reach?"
        default = info.provider.api if info else None
        answers = _ask(question, answers, "upstream", "routes.{name}.upstream", default=default or None)
    answers = replace(answers, name=answers.name or _ask_name(answers))
    for key, question in _ADDRESSES.items() if info is None else ():
        answers = _ask_url(answers, key, question)
    if not answers.client_id:
        answers = _ask("Client id:", answers, "client_id", "accounts.{name}.client_id")
    if answers.client_secret is None and _needs_secret(info):
        answers = replace(answers, secret=_ask_secret(answers, own=info is None))
    return answers


def _info(provider: str | None) -> PresetInfo | None:
    from tokenproxy import config

    return config.preset(provider) if provider else None


def _choose(call: Call) -> str | None:
    """A preset by its name, or by a part of it that no other has; a part that several have lists them."""
    from tokenproxy import config

    known = config.presets()
    call.out.note(
        f'Whose tokens does it need? {len(known)} providers are known: type a name or a part of one, or "{OWN}".'
    )
    while True:
        choice = str(_prompt("Provider:")).strip()
        if choice == OWN:
            return None
        if choice in known:
            return choice
        found = matching(known, choice)
        if len(found) == 1:
            call.out.note(f"  {found[0].name}: {found[0].provider.title}")
            return found[0].name
        rows = [(each.name, each.provider.title) for each in found]
        call.out.note(table(rows, indent="  ") if rows else f'  nobody has "{choice}" in the name')


def _ask_name(answers: Answers) -> str:
    while True:
        name: str = _prompt("Name for this route and account:", default=answers.provider or "api")
        wrong = _wrong(replace(answers, name=name), "name")
        if wrong is None:
            return name
        click.echo(f"  {wrong}", err=True)


def _ask_var(answers: Answers, key: str, info: PresetInfo | None) -> Answers:
    about = _where(info.provider, key) if info else ""
    while True:
        value = _prompt(f"{key.replace('_', ' ').capitalize()}, as in {about}:")
        told = replace(answers, vars={**answers.vars, key: value})
        wrong = _wrong(told, f"accounts.{told.name or 'api'}.vars.{key}")
        if wrong is None:
            return told
        click.echo(f"  {wrong}", err=True)


def _where(provider: Provider, key: str) -> str:
    """The first address with the placeholder in it."""
    addresses = (provider.token_url, provider.authorize_url, provider.issuer, provider.api)
    return next((each for each in addresses if f"{{{key}}}" in each), provider.token_url)


def _ask(
    question: str, answers: Answers, attribute: str, path: str, *, default: str | None = None
) -> Answers:
    while True:
        changed: dict[str, Any] = {attribute: _prompt(question, default=default)}
        told = replace(answers, **changed)
        wrong = _wrong(told, path.format(name=told.name or "api"))
        if wrong is None:
            return told
        click.echo(f"  {wrong}", err=True)


_ADDRESSES: Final = {
    "token_url": "Where it gives out and renews tokens:",
    "authorize_url": "Where a person logs in (empty: not known yet):",
}


def _ask_url(answers: Answers, key: str, question: str) -> Answers:
    while True:
        url: str = _prompt(question, default="" if key == "authorize_url" else None)
        told = replace(answers, urls={**answers.urls, key: url})
        wrong = _wrong(told, f"providers.{told.name}.{key}") if url else None
        if wrong is None:
            return told
        click.echo(f"  {wrong}", err=True)


def _ask_secret(answers: Answers, *, own: bool) -> str | None:
    empty = "empty for a public client" if own else f"empty: you put it into {answers.name}.secret later"
    given: str = _prompt(f"Client secret ({empty}):", default="", hidden=True)
    return given or None


def _needs_secret(info: PresetInfo | None) -> bool:
    from tokenproxy.config.providers import NEED_SECRET

    return info is None or info.provider.client_auth in NEED_SECRET


def _prompt(question: str, *, default: str | None = None, hidden: bool = False) -> Any:
    text = f"{question} [{default}]" if default else question
    return click.prompt(
        text, default=default, hide_input=hidden, show_default=False, prompt_suffix=" ", err=True
    )


def _wrong(answers: Answers, path: str) -> str | None:
    """What the config would say of one answer."""
    return next((each.message for each in _problems(answers) if each.path == path), None)


def _problems(answers: Answers) -> list[Problem]:
    """All that the config would say; the secret, which lies in a file that is not there yet, is not judged."""
    from tokenproxy import config

    secret = "literal:x" if answers.client_secret or answers.secret else None
    try:
        text = _text(replace(answers, name=answers.name or "api", client_secret=secret))
        config.parse(text, source=CONFIG, base=Path.cwd(), environ={})
    except ConfigError as error:
        return [each for each in error.problems if not each.path.endswith((".client_secret", ".private_key"))]
    return []


# -- files -------------------------------------------------------------------------------------------------------------


def _text(answers: Answers) -> str:
    from tokenproxy import config

    text = config.starter(
        provider=answers.provider,
        name=answers.name,
        upstream=answers.upstream,
        client_id=answers.client_id,
        client_secret=answers.client_secret,
        vars=answers.vars,
    )
    for key, url in answers.urls.items():
        line = f"{key} = {json.dumps(url)}\n" if url else ""
        text = re.sub(rf"(?m)^{key} = .*\n", line.replace("\\", r"\\"), text)
    return text


def _write_all(call: Call, answers: Answers, *, force: bool) -> None:
    """The secret and the key first: a config that is there names only what is there too."""
    folder = call.config.absolute().parent
    secret_file = folder / f"{answers.name}.secret"
    if answers.secret is not None:
        answers = replace(answers, client_secret=f"file:{secret_file.name}")
    text = _text(answers)
    rows = []
    with _explained(folder):
        if answers.secret is not None:
            _create(secret_file, f"{answers.secret}\n", force=force)
            rows.append((shown(secret_file), "mode 0600, the client secret"))
        key_row = _key(folder)
        _create(call.config.absolute(), text, force=force)
    rows.append((str(call.config), "1 route"))
    rows += [key_row] if key_row else []
    call.out.say()
    call.out.say("\n".join(f"wrote  {line}" for line in table(rows).splitlines()))
    for line in _next(call, answers, text, folder):
        call.out.say(line)


def _key(folder: Path) -> tuple[str, str] | None:
    """A key that is there stays; a store that is there would not open with a new one."""
    from tokenproxy import parts

    path = folder / "tokenproxy.key"
    if path.exists() or (folder / "tokenproxy.db").exists():
        return None
    parts.new_key_file(path)
    return shown(path), KEEP_A_COPY


def _next(call: Call, answers: Answers, text: str, folder: Path) -> list[str]:
    lines = []
    blanks = re.findall(r"(?m)^([a-z_]+) = .*CHANGE ME", text)
    if blanks:
        lines.append(
            f"{call.out.mark('warn')} {counted(len(blanks), 'setting')} to fill in, marked CHANGE ME: {', '.join(blanks)}"
        )
    for key in ("client_secret", "private_key"):
        missing = re.search(rf'(?m)^{key} = "file:([^"]+)"', text)
        if missing and not (folder / missing[1]).exists():
            what = key.replace("_", " ")
            lines.append(
                f"{call.out.mark('warn')} put the {what} into {shown(folder / missing[1])}, mode 0600"
            )
    steps = ["tokenproxy check"] if lines else []
    if address := _callback_address(answers, text):
        lines.append(f"Register this address: {address}   (at the provider)")
    lines += [""]
    steps += [*_login_steps(answers, text), "tokenproxy serve"]
    return [
        *lines,
        *(f"{'Next:' if not number else '':<6} {call.step(step)}" for number, step in enumerate(steps)),
    ]


def _grant(text: str) -> str:
    found = re.search(r'(?m)^grant = "(\w+)"', text)
    return found[1] if found else "authorization_code"


def _login_steps(answers: Answers, text: str) -> list[str]:
    """How the account comes to its first tokens: by a login, by an import where there is no page for one, or by itself."""
    from tokenproxy.core.provider import LOGIN_GRANTS

    if _grant(text) not in LOGIN_GRANTS:
        return []
    if answers.provider is None and "authorize_url" not in text:
        return [f"tokenproxy import {answers.name} < answer.json"]
    return [f"tokenproxy login {answers.name}"]


def _callback_address(answers: Answers, text: str) -> str:
    """Where a browser comes back to; "" where none does."""
    from tokenproxy import config
    from tokenproxy.core.login import callback_address
    from tokenproxy.core.provider import DEVICE_CODE, Account, Provider, Registration

    if _login_steps(answers, text) != [f"tokenproxy login {answers.name}"] or _grant(text) == DEVICE_CODE:
        return ""
    own = Provider(name=answers.name, token_url="")
    provider = config.preset(answers.provider).provider if answers.provider else own
    account = Account(name=answers.name, provider=provider, registration=Registration(client_id=""))
    return callback_address(f"http://{peek.DEFAULT_ADMIN}", account)


def _create(path: Path, text: str, *, force: bool) -> None:
    """With mode 0600, whole or not at all; ``FileExistsError`` unless ``force``."""
    if force:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    else:
        descriptor, name = (
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600),
            str(path),
        )
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise UnusableError(
            f"{shown(Path(error.filename))} is there already and was not changed",
            next_step="move it away, or init with --force",
        ) from error
    except OSError as error:
        raise TokenproxyError(f"nothing could be written into {folder}: {error.strerror}") from error
