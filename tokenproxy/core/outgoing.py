"""An outgoing proxy (``proxy``), and the way to somebody that may lead through one."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field

from tokenproxy.core.settings import TLSFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingProxy:
    scheme: str
    """``http``, or ``https`` where we speak TLS with the proxy itself."""
    host: str
    """Without brackets."""
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    """Who vouches for an ``https`` proxy; empty: the system's authorities."""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def line(self) -> bytes:
        """The Proxy-Authorization field (RFC 9110 section 11.7.2); empty where the proxy wants none."""
        return f"Proxy-Authorization: Basic {self.basic}\r\n".encode() if self.username else b""

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(each for each in (self.password, self.basic) if each)

    @property
    def basic(self) -> str:
        """What the Basic scheme sends (RFC 7617); empty where the proxy wants none."""
        if not self.username:
            return ""
        return b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How calls get to a provider."""

    tls: TLSFiles = field(default_factory=TLSFiles)
    proxy: OutgoingProxy | None = None
