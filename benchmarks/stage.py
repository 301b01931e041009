"""Everything that a measurement needs running: an upstream and the proxies before it, each on its core."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.parts import BEST_LOOP, answer
from benchmarks.peers import PEERS, Place
from benchmarks.running import Cores, Running, free_port, running, wait_until_good

ROOT: Final = Path(__file__).parent.parent
PATH: Final = "/bench/v2/items/1"
"""What the first request asks for."""

NGINX_UPSTREAM: Final = """
daemon off;
pid {folder}/upstream.pid;
error_log {folder}/upstream-error.log error;
worker_processes 1;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_timeout 10m;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/u1;
  proxy_temp_path {folder}/u2;
  fastcgi_temp_path {folder}/u3;
  uwsgi_temp_path {folder}/u4;
  scgi_temp_path {folder}/u5;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.pem;
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    location / {{ return 200 '{body}'; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    name: str
    process: Running
    port: int
    admin: int
    ready_after: float
    """Seconds from its start to the first good answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What is behind the proxies."""

    size: int = 908
    """Bytes of an answer."""
    reading: bool = False
    """Requests have bodies."""
    wait: float = 0.0
    """Seconds before each answer."""
    tls: bool = False

    @contextmanager
    def running(self, stage: Stage) -> Iterator[tuple[int, Path | None]]:
        """Its port, and whom to trust if it speaks TLS."""
        port = free_port()
        ca = stage.certificates() if self.tls else None
        command = self.nginx(stage.folder, port) if self.tls else self.ours(port)
        with running("upstream", command, core=stage.cores.other, cwd=stage.folder, path=ROOT) as process:
            if not self.tls:
                wait_until_good(process, port, "/")
            yield port, ca

    def ours(self, port: int) -> list[str]:
        words = [sys.executable, "-m", "benchmarks.parts", "upstream", str(port), "--size", str(self.size)]
        return [*words, "--wait", str(self.wait), *(["--reading"] if self.reading else [])]

    def nginx(self, folder: Path, port: int) -> list[str]:
        """The only one here that speaks TLS fast enough."""
        program = PEERS["nginx"].path()
        if program is None:
            raise SystemExit(
                "The https upstream is nginx, which is not installed: apt-get install nginx-light"
            )
        body = answer(self.size).partition(b"\r\n\r\n")[2].decode()
        config = folder / "upstream.conf"
        config.write_text(NGINX_UPSTREAM.format(folder=folder, port=port, body=body))
        return [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Whom a measurement is about, and the means to run them."""

    programs: dict[str, str]
    """Of each proxy, by its name in ``PEERS``: the path of what runs it."""
    folder: Path
    loop: str = BEST_LOOP
    cores: Cores = field(default_factory=Cores.of_this_machine)

    @classmethod
    @contextmanager
    def built(cls, programs: dict[str, str], loop: str = BEST_LOOP) -> Iterator[Stage]:
        """This process, and so what it starts, moves to the core of the load."""
        with tempfile.TemporaryDirectory(prefix="tokenproxy-bench-") as folder:
            stage = cls(programs=programs, folder=Path(folder), loop=loop)
            if stage.cores.other is not None:
                os.sched_setaffinity(0, {stage.cores.other})
            yield stage

    def certificates(self) -> Path:
        """A certificate for ``localhost`` in ``server.pem``; the file with the authority to trust."""
        import trustme

        authority = trustme.CA()
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(self.folder / "server.pem")
        )
        authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        return self.folder / "ca.pem"

    @contextmanager
    def proxy(self, name: str, upstream: int, ca: Path | None = None) -> Iterator[Proxy]:
        """One proxy, which answers."""
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self.folder) as folder:
            place = Place(
                folder=Path(folder),
                port=free_port(),
                admin=free_port(),
                upstream=upstream,
                ca=ca,
                loop=self.loop,
            )
            command = [self.programs[name], *PEERS[name].prepare(place)]
            with running(name, command, core=self.cores.proxy, cwd=place.folder, path=ROOT) as process:
                good = wait_until_good(process, place.port, PATH)
                yield Proxy(name, process, place.port, place.admin, good - process.began)

    @contextmanager
    def all(self, upstream: Upstream) -> Iterator[dict[str, Proxy]]:
        """All of them at once, before the same upstream."""
        with ExitStack() as stack:
            port, ca = stack.enter_context(upstream.running(self))
            yield {name: stack.enter_context(self.proxy(name, port, ca)) for name in self.programs}
