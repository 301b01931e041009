"""The actors of all end-to-end stories: providers, an API, a wire between them, and a clock."""

from __future__ import annotations

from tests.simulators.api import Api, ApiRequest, pattern, pattern_sha256
from tests.simulators.clock import FakeClock
from tests.simulators.deskpro import DeskproProvider
from tests.simulators.device import DeviceProvider
from tests.simulators.files import account_table, free_port, provider_table, write_config
from tests.simulators.outgoing import OutgoingSimulator
from tests.simulators.provider import (
    ABSENT,
    SAME,
    Answer,
    AskaraProvider,
    DeskeraProvider,
    Grant,
    PerscomProvider,
    PlainProvider,
    Provider,
    TokenCall,
)
from tests.simulators.server import Changes, Server
from tests.simulators.tcp import TcpProxy

__all__ = [
    "ABSENT",
    "SAME",
    "Answer",
    "Api",
    "ApiRequest",
    "AskaraProvider",
    "Changes",
    "DeskeraProvider",
    "DeskproProvider",
    "DeviceProvider",
    "FakeClock",
    "Grant",
    "OutgoingSimulator",
    "PerscomProvider",
    "PlainProvider",
    "Provider",
    "Server",
    "TcpProxy",
    "TokenCall",
    "account_table",
    "free_port",
    "pattern",
    "pattern_sha256",
    "provider_table",
    "write_config",
]
