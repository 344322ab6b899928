"""Running the service: uvicorn, which waits for slow clients without end, taught patience, and an orderly end on SIGTERM."""

import asyncio
import math
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from promptvit.serving.app import create_app
from promptvit.serving.bank import PromptBank
from promptvit.serving.settings import ServiceSettings

try:
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError as error:
    raise ImportError(f'serve: needs the package {error.name}; install it with: pip install "promptvit[serve]"') from None

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(H11Protocol):
    """Closes a connection on which a request's headers, or what is left of a body that was refused, take longer than keep-alive may."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.deadline = self.loop.call_later(self.timeout_keep_alive, self._too_slow)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_deadline()
        elif self.deadline is None:
            self.deadline = self.loop.call_later(self.timeout_keep_alive, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _forget_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _too_slow(self) -> None:
        if self.conn.our_state is h11.IDLE:
            self.transport.write(_TOO_SLOW)
        self.transport.close()


def build_server(bank: PromptBank, settings: ServiceSettings, *, log_level: str = "warning") -> uvicorn.Server:
    """A server for :meth:`uvicorn.Server.run` on sockets of the caller's."""
    options: dict[str, Any] = {"timeout_keep_alive": settings.timeout, "timeout_graceful_shutdown": math.ceil(2 * settings.timeout) + 1}
    app = create_app(bank, settings)
    return uvicorn.Server(uvicorn.Config(app, http=PatientProtocol, ws="none", log_level=log_level, access_log=False, **options))


def serve(bank: PromptBank, settings: ServiceSettings, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Answer until SIGTERM or Ctrl-C, then finish what was accepted.

    Args:
        port: 0 takes a free one.
        ready: called with the service's address once it listens.

    Raises:
        OSError: the address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        shown = f"[{host}]" if ":" in host else host
        server = build_server(bank, settings)
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again once it has stopped; by then there is nothing to end
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
