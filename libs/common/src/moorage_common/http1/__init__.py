"""An HTTP/1.1 server on asyncio protocols and httptools: what the router and the replica host answer with.

A handler is a coroutine function that takes an Exchange. Framing that two readers could understand differently is
refused, heads and bodies are bounded, a caller that goes away cancels its handler, and draining loses nothing.
"""

from moorage_common.http1.exchange import ClientGone, Exchange, Handler
from moorage_common.http1.head import Fields, Head
from moorage_common.http1.limits import Limits
from moorage_common.http1.server import Server

__all__ = ["ClientGone", "Exchange", "Fields", "Handler", "Head", "Limits", "Server"]
