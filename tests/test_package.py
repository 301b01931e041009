"""What people install: the wheel and the source archive, built here and used from outside the repository."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tokenproxy import __version__

ROOT = Path(__file__).parent.parent
SHIPPED = (".ci", "benchmarks", "deploy", "docs", "tests", "tokenproxy")
NOT_SHIPPED = ("*/__pycache__/*", "*/node_modules/*", "deploy/secrets/*", "*.pyc")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, by the back end that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def the_one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_the_wheel_holds_the_package_alone_and_says_that_it_is_typed(built: Path) -> None:
    with zipfile.ZipFile(the_one(built, "*.whl")) as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(
            wheel.read(f"tokenproxy-{__version__}.dist-info/METADATA").decode(), headersonly=True
        )

    assert {name.split("/")[0] for name in names} == {"tokenproxy", f"tokenproxy-{__version__}.dist-info"}
    assert "tokenproxy/py.typed" in names
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tokenproxy").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here <= names
    assert f"tokenproxy-{__version__}.dist-info/licenses/LICENSE" in names
    assert set(metadata.get_all("Provides-Extra", [])) >= {"fast", "postgres", "qr"}


def test_the_source_archive_holds_what_the_tests_need(built: Path) -> None:
    """Every file of the folders that they read, and the pages, locks and files beside them."""
    with tarfile.open(the_one(built, "*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    wanted = {
        str(path.relative_to(ROOT))
        for folder in SHIPPED
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and not any(fnmatch.fnmatch(str(path.relative_to(ROOT)), each) for each in NOT_SHIPPED)
    }
    wanted |= {path.name for pattern in ("*.md", "*.lock", "*.toml") for path in ROOT.glob(pattern)} - {
        "config.toml"
    }
    assert wanted | {"LICENSE", "Dockerfile", "PKG-INFO"} <= names
    assert not any(fnmatch.fnmatch(name, each) for name in names for each in NOT_SHIPPED)


def test_the_wheel_works_in_an_environment_of_its_own(built: Path, tmp_path: Path) -> None:
    """The version and the whole demo, from a folder without a repository; what it depends on is lent by ours."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = the_one(venv / "lib", "python3.*/site-packages")
    with zipfile.ZipFile(the_one(built, "*.whl")) as wheel:
        wheel.extractall(packages)  # a wheel of pure Python is installed by unpacking it (PEP 427)
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(code: str, *words: str) -> str:
        told = subprocess.run(
            [str(venv / "bin/python"), "-c", code, *words],
            cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=50,
        )  # fmt: skip
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    script = "import sys; from tokenproxy.__main__ import main; sys.exit(main())"
    assert run("import tokenproxy; print(tokenproxy.__file__)").startswith(str(packages))
    assert __version__ in run(script, "--version")
    assert "50" in run(script, "demo", "--once")
    assert list(tmp_path.iterdir()) == [venv]
