"""``presets``: the providers that we know, listed, found by a word, and explained."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from tokenproxy.cli.command import Call, UnusableError, command
from tokenproxy.cli.present import counted, table

if TYPE_CHECKING:
    from tokenproxy.config import PresetInfo
    from tokenproxy.core.provider import Provider, Signal

Rows = Iterator[tuple[str, str]]


class PresetName(click.ParamType[str]):
    """A provider that we ship, completed by the names of the files."""

    name = "preset"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        from importlib.resources import files

        folder = files("tokenproxy.core") / "presets"
        names = sorted(
            each.name.removesuffix(".toml") for each in folder.iterdir() if each.name.endswith(".toml")
        )
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@command("presets", json=True)
@click.argument("name", required=False, type=PresetName())
@click.option("--toml", is_flag=True, help="Print a preset as a table [providers.NAME], and nothing else.")
def presets(call: Call, *, name: str | None, toml: bool) -> None:
    """
    The providers that tokenproxy knows.

    With NAME, all that it knows of one, and what to write into the config; with a part of a name, those that have it. An account takes a preset by provider = "NAME"; a table [providers.NAME] in the config changes it key by key.
    """
    from tokenproxy import config

    if name in config.preset_names():
        _one(call, config.preset(name), toml=toml)
        return
    known = config.presets()
    found = matching(known, name or "")
    if not found:
        raise unknown_preset(name or "")
    if toml:
        call.out.result("\n\n".join("\n".join(toml_lines(each.name, each.raw)) for each in found))
    else:
        _list(call, found)


def unknown_preset(name: str) -> UnusableError:
    """With where the names are that have it in them, else with the one that was probably meant."""
    from tokenproxy import config
    from tokenproxy.config.words import nearest

    known = config.preset_names()
    text = f'there is no preset "{name}"'
    if name and any(name in each for each in known):
        return UnusableError(text, next_step=f"tokenproxy presets {name}")
    meant = nearest(name, known)
    return UnusableError(
        f'{text}. Did you mean "{meant}"?' if meant else text, next_step="tokenproxy presets"
    )


def matching(known: Mapping[str, PresetInfo], word: str) -> list[PresetInfo]:
    """The presets with a word in name or title that begins so, else those that have it anywhere; without regard to case."""
    texts = {name: f" {name} {each.provider.title}".lower() for name, each in known.items()}
    begins = re.compile(rf"[^a-z0-9]{re.escape(word.lower())}")
    found = [name for name, text in texts.items() if begins.search(text)]
    found = found or [name for name, text in texts.items() if word.lower() in text]
    return [known[name] for name in found]


def _list(call: Call, found: Sequence[PresetInfo]) -> None:
    if call.json:
        call.out.json({"presets": [_as_json(each) for each in found]})
        return
    rows = [("PRESET", "PROVIDER", "LOGS IN BY", "FILL IN", "REFRESH TOKEN")]
    for each in found:
        ways = ", ".join(_WAYS[grant] for grant in each.grants)
        rotation = _ROTATIONS[each.provider.rotation][0]
        rows.append((each.name, each.provider.title or "-", ways, ", ".join(each.vars) or "-", rotation))
    call.out.result(table(rows))
    call.out.note(
        f"{counted(len(found), 'preset')}. All about one: {call.step('tokenproxy presets')} {found[0].name}"
    )


def _as_json(each: PresetInfo) -> dict[str, Any]:
    return {
        "name": each.name,
        "title": each.provider.title,
        "docs": each.docs,
        "grants": list(each.grants),
        "vars": list(each.vars),
        "rotation": each.provider.rotation,
        "provider": dict(each.raw),
    }


def _one(call: Call, info: PresetInfo, *, toml: bool) -> None:
    from tokenproxy import config

    if call.json:
        call.out.json(_as_json(info))
        return
    if toml:
        call.out.result("\n".join(toml_lines(info.name, info.raw)))
        return
    provider = info.provider
    call.out.result(f"{provider.title or info.name}\n")
    call.out.result(table(_explained(info), indent="  "))
    if provider.notes:
        call.out.result("\n" + "\n".join(f"  - {note}" for note in provider.notes))
    text = config.starter(
        provider=info.name, name=info.name, upstream=None, client_id=None, client_secret=None, vars={}
    )
    call.out.result(f"\nFor the config, as {call.step('tokenproxy init')} {info.name} writes it:\n")
    whole = text.partition("\n\n")[2].rstrip("\n").splitlines()
    call.out.result("\n".join(line for line in whole if not line.startswith("#")))  # told above


# -- in words ----------------------------------------------------------------------------------------------------------

_WAYS: Final = {
    "authorization_code": "browser",
    "device_code": "device",
    "client_credentials": "itself",
}
_WAYS_EXPLAINED: Final = {
    "authorization_code": "a person's browser",
    "device_code": "a code that a person types in on another device",
    "client_credentials": 'itself, without a person: grant = "client_credentials"',
}
_ROTATIONS: Final = {
    "always": ("rotates", "each refresh brings a new one, and the old one is spent"),
    "sometimes": ("may rotate", "a refresh may bring a new one"),
    "never": ("stays", "stays the same"),
    "unknown": ("-", "nobody knows whether a refresh replaces it, or there is none"),
}
_CLIENTS: Final = {
    "basic": "client id and secret in HTTP Basic, form-encoded",
    "basic_raw": "client id and secret in HTTP Basic, as they are",
    "post": "client id and secret among the parameters",
    "query": "client id and secret in the address",
    "none": "client id alone, no secret",
    "client_secret_jwt": "a JWT signed with the client secret",
    "private_key_jwt": "a JWT signed with a private key",
    "mtls": "a client certificate",
}
_BODIES: Final = {
    "form": "a form",
    "json": "JSON",
    "query": "parameters in the address",
}
_SEPARATORS: Final = {" ": "blanks", ",": "commas", "+": "plus signs"}


def _explained(info: PresetInfo) -> Rows:
    """What a person asks of a provider, in the order in which it is asked."""
    provider = info.provider
    yield "Logs in by", ", or ".join(_WAYS_EXPLAINED[grant] for grant in info.grants)
    yield from _addresses(provider)
    yield "Client", _CLIENTS[provider.client_auth.value]
    yield "Scopes", _scopes(provider)
    yield "Token goes into", _place(provider)
    for name, value in provider.inject.headers.items():
        yield "And a header", f"{name}: {value}"
    if provider.api:
        yield "API", provider.api
    yield from _refreshes(provider)
    yield "Dead token", "; ".join(_dead(provider))
    if provider.validate:
        yield "Asked if it lives", f"{provider.validate.method} {provider.validate.url}"
    if provider.revoke:
        yield "Ended at logout", f"{provider.revoke.method} {provider.revoke.url}"
    if info.vars:
        blanks = ", ".join(f'{each} = "..."' for each in info.vars)
        yield "You fill in", f"vars = {{ {blanks} }}"
    if taken := [*provider.captured, *provider.callback.captured]:
        yield "Taken from answers", ", ".join(f"{{{each}}}" for each in taken)
    yield "Not tried yet", _unverified(provider)
    if info.docs:
        yield "Documentation", info.docs


def _addresses(provider: Provider) -> Rows:
    if provider.issuer:
        yield "Metadata", f"of {provider.issuer}"
    if provider.authorize_url:
        challenge = "no PKCE" if provider.pkce.value == "none" else f"PKCE {provider.pkce.value}"
        yield "Login page", f"{provider.authorize_url}   {challenge}"
    if provider.device_url:
        yield "Device codes", provider.device_url
    if provider.token_url:
        body = _BODIES["query" if provider.token_method == "GET" else provider.token_body.value]  # noqa: S105 - a method
        yield "Tokens", f"{provider.token_method} {provider.token_url}   {body}"
    if provider.refresh_url:
        yield "Refreshes", f"{provider.refresh_method or provider.token_method} {provider.refresh_url}"


def _scopes(provider: Provider) -> str:
    separator = _SEPARATORS.get(provider.scope_separator, repr(provider.scope_separator))
    joined = "" if provider.scope_separator == " " else f" (several are joined by {separator})"
    return (" ".join(provider.scopes) or "none, unless the account names some") + joined


def _place(provider: Provider) -> str:
    inject = provider.inject
    if inject.query:
        return f"?{inject.query}=TOKEN"
    return f"{inject.header}: {inject.value.replace('{access_token}', 'TOKEN')}"


def _refreshes(provider: Provider) -> Rows:
    """What is known of the refresh token's life."""
    if provider.refresh_with == "access_token":
        yield "Refresh token", "there is none: a living access token is renewed by itself"
    else:
        yield "Refresh token", _ROTATIONS[provider.rotation][1]
    if idle := provider.refresh_idle:
        yield "Idle limit", f"{_length(idle)}; an idle login is renewed after {_length(idle / 2)}"
    if provider.grace:
        yield "Grace", f"a spent refresh token works for another {_length(provider.grace)}"
    if early := provider.refresh_not_before_expiry:
        yield "Too early", f"a refresh more than {_length(early)} before expiry is refused"
    if provider.lifetime:
        yield "Access token", f"lives for {_length(provider.lifetime)} where the answer does not tell"


def _length(length: timedelta) -> str:
    """``182.5 days``, ``5.5 h``: exact, since it is a promise."""
    units = ((timedelta(days=1), "day"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "min"))
    size, unit = next((each for each in units if length >= each[0]), (timedelta(seconds=1), "s"))
    number = f"{length / size:g}"
    return f"{number} {unit}{'s' if unit == 'day' and number != '1' else ''}"


def _dead(provider: Provider) -> Iterator[str]:
    yield " or ".join(map(str, provider.dead))
    for signal in provider.dead_when:
        yield f"also {_signal(signal)}"
    for signal in provider.dead_unless:
        yield f"but not {_signal(signal)}"


def _signal(signal: Signal) -> str:
    parts = [f"{path} = {value}" for path, value in signal.json.items()]
    parts += [f"{name}: {part}" for name, part in signal.header.items()]
    parts += [f'"{signal.body}" in the body'] if signal.body else []
    status = " or ".join(map(str, signal.status))
    return " with ".join(filter(None, (status, " and ".join(parts))))


def _unverified(provider: Provider) -> str:
    if "*" in provider.unverified:
        return "all of it: from documentation, and never run against the provider"
    return ", ".join(provider.unverified) or "nothing: as the provider's guide says"


# -- as a table of the config ------------------------------------------------------------------------------------------


def toml_lines(name: str, raw: Mapping[str, Any]) -> list[str]:
    """A table ``[providers.NAME]`` that may be pasted into a config."""
    return [f"[providers.{name}]", *(f"{key} = {_toml(value)}" for key, value in raw.items())]


def _toml(value: Any) -> str:
    match value:
        case Mapping():
            inner = ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case list() | tuple():
            return f"[{', '.join(_toml(each) for each in value)}]"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return str(value)


def _key(text: str) -> str:
    plain = text.replace("-", "").replace("_", "")
    return text if plain.isalnum() and plain.isascii() else json.dumps(text)
