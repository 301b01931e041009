"""What the documents say exists, exists, and the other way round."""

from __future__ import annotations

import re
from pathlib import Path

from tokenproxy import config
from tokenproxy.core.passwords import PasswordHash
from tokenproxy.core.problems import BODY_NOT_REPLAYABLE, PROBLEMS

ROOT = Path(__file__).parent.parent


def test_the_error_page_lists_every_code_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)

    assert {code: int(status) for code, status in rows} == {
        code: kind.status for code, kind in PROBLEMS.items()
    }
    assert BODY_NOT_REPLAYABLE in (ROOT / "docs/errors.md").read_text()


def test_each_line_about_http_names_tests_that_exist() -> None:
    rows = re.findall(
        r"^\| (?!What|---)(.*) \| (.*) \| (.*) \|$", (ROOT / "docs/http.md").read_text(), re.MULTILINE
    )
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))

    assert len(rows) > 40
    for what, _, named in rows:
        names = re.findall(r"`(test_\w+)`", named)
        assert names, what
        for name in names:
            assert f"def {name}(" in tests, f"{what}: {name}"


def test_the_readme_s_config_is_a_config(tmp_path: Path) -> None:
    """A newcomer copies it first of all; it is at most twelve lines long."""
    text = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    loaded = config.parse(
        text, source="README.md", base=tmp_path, environ={"DESKERA_SECRET": "s3cret-of-nobody"}
    )

    assert len(text.strip().splitlines()) <= 12
    assert [route.name for route in loaded.routes] == ["books"]


def test_the_configs_of_deskpro_s_page_are_configs(tmp_path: Path) -> None:
    """The first, alone, with the page's second route, and with the strict provider in the place of its own."""
    first, apps, strict = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/deskpro.md").read_text(), re.DOTALL)
    rest = first[first.index("[accounts.desk]") :]

    for text, routes in ((first, 1), (f"{first}\n{apps}", 2), (f"{strict}\n{rest}", 1)):
        loaded = config.parse(
            text, source="docs/deskpro.md", base=tmp_path, environ={"DESK_SECRET": "s3cret-of-nobody"}
        )
        assert len(loaded.routes) == routes


def test_the_configs_of_the_page_about_ways_in_are_configs(tmp_path: Path) -> None:
    """The first, with its routes by host, and with each kind of listener."""
    first, by_host, *rest = re.findall(
        r"```toml\n(.*?)```", (ROOT / "docs/ways-in.md").read_text(), re.DOTALL
    )
    kubernetes = "/var/run/secrets/kubernetes.io/serviceaccount/"
    rest = [text.replace(kubernetes, "kubernetes-") for text in rest]
    listeners, callers = rest[:3], rest[3:]
    for name in ("fullchain.pem", "privkey.pem", "callers-ca.pem"):
        (tmp_path / name).touch(mode=0o600)
    for name, text in (
        ("billing-key", "a-key-of-good-length"),
        ("kubernetes-token", "a-token"),
        ("kubernetes-ca.crt", "a-certificate"),
        ("reports-hash", str(PasswordHash.made("secret", salt=b"0123456789abcdef"))),
    ):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text)

    for text, routes, ways in (
        (f"{first}\n{by_host}", ["acme", "books", "tenants"], 1),
        *((f"{first}\n{listen}", ["acme"], ways) for listen, ways in zip(listeners, (3, 1, 1), strict=True)),
        *((f"{first}\n{caller}", ["acme"], 1) for caller in callers),
    ):
        loaded = config.parse(
            text, source="docs/ways-in.md", base=tmp_path, environ={"ACME_SECRET": "s3cret-of-nobody"}
        )
        assert [route.name for route in loaded.routes] == routes
        assert len(loaded.server.listen) == ways
        assert len(loaded.callers) == ("[callers." in text)
        assert loaded.warnings == ()


def test_the_configs_of_the_page_on_long_lived_traffic_are_configs(tmp_path: Path) -> None:
    """Together, with a provider in the place of its example's."""
    chat, files = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/long-lived.md").read_text(), re.DOTALL)
    provider = '[providers.acme]\nauthorize_url = "https://a.example/a"\ntoken_url = "https://a.example/t"\n'
    loaded = config.parse(
        f"{chat}\n{files}\n{provider}",
        source="docs/long-lived.md",
        base=tmp_path,
        environ={"ACME_SECRET": "s3cret-of-nobody"},
    )

    assert [(route.upgrade, route.connect) for route in loaded.routes] == [
        (frozenset({b"websocket"}), False),
        (frozenset(), True),
    ]


def test_the_config_of_the_page_about_other_proxies_is_one(tmp_path: Path) -> None:
    """With the README's routes."""
    asking = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/forward-auth.md").read_text(), re.DOTALL)
    first = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    text = "\n".join([first, *asking]).replace("www-data", "root")
    loaded = config.parse(
        text, source="docs/forward-auth.md", base=tmp_path, environ={"DESKERA_SECRET": "s3cret-of-nobody"}
    )

    assert loaded.forward_auth.routes == {"books"}
    assert [each.asks for each in loaded.forward_auth.listen] == [True]


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_links_to_a_heading_lead_to_one() -> None:
    """As GitHub names them: lower case, blanks as dashes, nothing but letters, digits and those."""

    def anchors(page: Path) -> set[str]:
        found = set()
        for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
            found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
        return found

    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            assert anchor in anchors(page.parent / target if target else page), (
                f"{page.name}: {target}#{anchor}"
            )


def test_every_page_is_in_the_list_of_pages() -> None:
    """Nobody finds what is not listed."""
    listed = re.findall(r"\]\(([^)#]+)", (ROOT / "docs/README.md").read_text())

    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in {*listed, "README.md"}, page.name


def test_exit_codes_of_the_readme_are_those_of_the_commands() -> None:
    """The page of the commands is compared with the program."""
    rows = re.findall(
        r"^\| (\d+) \| ([^|]+)(?:\| \| (\d+) \| ([^|]+))?\|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    readme = {int(code) for row in rows for code in (row[0], row[2]) if code}
    page = {
        int(code)
        for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    }

    assert readme == page


def test_the_lock_fits_and_names_no_index() -> None:
    """The image is built from it; an address of somebody's mirror would bind it to a place."""
    lock = (ROOT / "requirements.lock").read_text()

    assert not re.search(r"https?://|index-url", lock)
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z])", lock.strip()))
