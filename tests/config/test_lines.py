"""A mistake without its line sends a person searching; every way to write a key must be found."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tokenproxy.config.lines import Keys, Lines

EVERY_FORM = '''\
# [not.a.table]
top = "level"

[server] # comment with [brackets] = "and quotes
listen = [ # line 5
    "one", # "not this"
    'two',
    { deep = "three", deeper = [
        4 ] },
]
caller_auth.keys = ["file:a"]
text = """
[fake]
key = "x" \\""" still inside
""""
raw = \'\'\'
other = 1 \'\'\'
when = 1979-05-27 07:32:00
"quoted.key" = 1
'lite ral' . "esc\\u0061ped" = { a = {b = 2, "c d" = [3, [5]]}, d = "}" }

[accounts."my books"]
a.b.c = 1
[[rows]]
x = 1
[[rows]]
x = 2
[accounts]
z = 0
'''


def test_every_way_to_write_a_key_has_its_line() -> None:
    """Comments, strings over several lines, arrays, inline, dotted and quoted keys all occur in real files."""
    lines = Lines(EVERY_FORM)

    expected: dict[Keys, int] = {
        ("top",): 2,
        ("server",): 4,
        ("server", "listen"): 5,
        ("server", "listen", 0): 6,
        ("server", "listen", 1): 7,
        ("server", "listen", 2, "deep"): 8,
        ("server", "listen", 2, "deeper", 0): 9,
        ("server", "caller_auth", "keys"): 11,
        ("server", "caller_auth", "keys", 0): 11,
        ("server", "text"): 12,
        ("server", "raw"): 16,
        ("server", "when"): 18,
        ("server", "quoted.key"): 19,
        ("server", "lite ral", "escaped", "a", "b"): 20,
        ("server", "lite ral", "escaped", "a", "c d", 1): 20,
        ("server", "lite ral", "escaped", "d"): 20,
        ("accounts", "my books", "a", "b", "c"): 23,
        ("rows", 1, "x"): 27,
        ("accounts",): 28,
    }
    assert {keys: lines.of(keys) for keys in expected} == expected
    tomllib.loads(EVERY_FORM)  # the scanner may trust its text, so ours must be one


def test_a_missing_key_is_told_at_its_table() -> None:
    """There is no line of it, but there is one where it should stand."""
    lines = Lines("[routes.a]\n\n[routes.b]\nx = 1\n")

    assert lines.of(("routes", "b", "upstream")) == 3
    assert lines.of(("store", "url")) is None


_names = st.text("ab_-1", min_size=1, max_size=3)
_texts = st.text("ab\u00e9\U0001f511\t \"'\\[]{}#=,.", max_size=12)


def _written(value: Any) -> str:
    """A value as TOML, over several lines where TOML lets it."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + "".join(f"\n  {_written(each)}, # ] '\n" for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {_written(each)}' for name, each in value.items()) + "}"
    return str(value).lower()


_values = st.recursive(
    st.integers() | st.booleans() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_names, st.dictionaries(_names, _values, max_size=4), max_size=4))
def test_whatever_the_values_keys_are_found(tables: dict[str, dict[str, Any]]) -> None:
    """No value, however it looks, may make the scanner lose its place."""
    text = ""
    expected: dict[Keys, int] = {}
    for table, pairs in tables.items():
        expected[table,] = text.count("\n") + 1
        text += f"[{table}]\n"
        for name, value in pairs.items():
            expected[table, name] = text.count("\n") + 1
            text += f"'{name}' = {_written(value)}\n"

    lines = Lines(text)

    assert {keys: lines.of(keys) for keys in expected} == expected
    assert tomllib.loads(text) == tables
