"""What the disk tells: volatile and network file systems, room, modes, secrets in the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.cases import CONFIG, case_of
from tokenproxy.doctor import files
from tokenproxy.doctor.files import Mount

MOUNTS = """\
22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
28 1 0:25 / / rw,relatime - overlay overlay rw,lowerdir=/a
40 28 8:1 / /var/lib/store\\040room rw - ext4 /dev/sda1 rw
41 28 0:44 / /run rw,nosuid - tmpfs tmpfs rw
42 28 0:45 / /run rw - nfs4 server:/run rw
"""


def test_the_mount_that_a_path_lies_on_is_the_deepest_and_the_last() -> None:
    """As proc(5) writes them, blanks as octal; what is mounted over another one hides it."""
    found = files.mounts(MOUNTS)

    def kind(path: str) -> str:
        mount = files.mount_of(Path(path), found)
        assert mount is not None
        return mount.kind

    assert kind("/var/lib/store room/x") == "ext4"
    assert kind("/var/lib/store roomy") == "overlay"
    assert kind("/run") == "nfs4"
    assert kind("/") == "overlay"
    assert files.mount_of(Path("/x"), []) is None


def test_a_store_that_dies_with_the_container_says_whose_login_is_lost(tmp_path: Path) -> None:
    """Word for word: whose login, and what to do."""
    (found,) = files.judge_place(case_of(tmp_path), Mount("/", "overlay"))

    assert (found.level, found.code) == ("warn", "store_volatile")
    assert found.sentence == (
        "tokenproxy.db lies on overlayfs: gone when the container is replaced.\n"
        "crm rotates its refresh token, so the login would be lost."
    )
    assert found.remedy == "Mount a volume at the store's folder, or use PostgreSQL."


def test_without_rotation_or_a_person_it_matters_less(tmp_path: Path) -> None:
    steady = case_of(tmp_path, CONFIG.replace("{provider}", "steady"))
    machine = CONFIG.replace('"{provider}"', '"steady"\ngrant = "client_credentials"')

    (lost,) = files.judge_place(steady, Mount("/tmp", "tmpfs"))
    (nothing,) = files.judge_place(case_of(tmp_path, machine), Mount("/tmp", "tmpfs"))

    assert "The login of crm would be lost with it." in lost.sentence
    assert "the machine restarts" in lost.sentence
    assert nothing.level == "good"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_warned_of(kind: str, tmp_path: Path) -> None:
    (found,) = files.judge_place(case_of(tmp_path), Mount("/", kind))

    assert found.code == "store_network"


def test_a_disk_is_judged_by_what_is_free(tmp_path: Path) -> None:
    mib = 2**20
    levels = [
        files.judge_disk("the store", tmp_path, free=free * mib, whole=10_000 * mib).level
        for free in (5_000, 150, 50, 1)
    ]

    assert levels == ["good", "warn", "warn", "bad"]


def test_a_key_that_others_read_is_warned_of(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    (none,) = files.key(case)
    (tmp_path / "tokenproxy.key").touch(mode=0o644)
    (tmp_path / "tokenproxy.key").chmod(0o644)
    (readable,) = files.key(case)
    (tmp_path / "tokenproxy.key").chmod(0o600)
    (fine,) = files.key(case)

    assert (none.level, readable.code, fine.level) == ("good", "key_readable", "good")
    assert "chmod 600" in readable.remedy
    assert fine.sentence == "file tokenproxy.key, mode 0600"


def test_an_admin_token_that_others_read_is_warned_of(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    path = tmp_path / "tokenproxy.db.admin-token"
    path.touch()
    path.chmod(0o640)

    assert [each.code for each in files.admin_token(case)] == ["admin_token_readable"]


def test_secrets_in_the_environment_are_named_and_not_shown(tmp_path: Path) -> None:
    case = case_of(tmp_path, environ={"TOKENPROXY_ADMIN__TOKEN": "literal:planted-secret-4567"})
    (found,) = files.secrets(case)

    assert found.code == "secret_in_environment"
    assert "CRM_SECRET, TOKENPROXY_ADMIN__TOKEN" in found.sentence
    assert "planted" not in f"{found}"


def test_a_config_that_others_write_is_warned_of(tmp_path: Path) -> None:
    case = case_of(tmp_path)
    case.config.path.chmod(0o666)

    assert "config_writable" in [each.code for each in files.config_file(case)]


def test_a_store_without_its_folder_is_a_problem(tmp_path: Path) -> None:
    text = f'[store]\nurl = "sqlite:nowhere/x.db"\n{CONFIG.replace("{provider}", "rotating")}'
    (found,) = files.store_place(case_of(tmp_path, text))

    assert (found.level, found.code) == ("bad", "store_folder")
