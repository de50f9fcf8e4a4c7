"""A WebSocket server of the library websockets, which does what a connection's path asks for.

``websocket_server.py PORT [CERTIFICATE]``; tests/support/websocket_peer.py has the paths.
"""

import asyncio
import json
import math
import ssl
import sys
import time
from collections import defaultdict
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

#: Messages between two looks at the other connections, of those that go out at once.
BATCH = 100


class Path:
    """What has happened on one path, all connections together."""

    def __init__(self):
        self.opened = self.open = self.received = 0
        self.close_code = self.close_reason = None


class Visit:
    """One connection, with what its URL asks for."""

    def __init__(self, connection, path, query):
        self.connection = connection
        self.path = path
        self.query = query

    def number(self, name, default):
        return float(self.query.get(name, default))

    def count(self, name, default):
        return int(self.query.get(name, default))

    async def send(self, value):
        text = json.dumps(value)
        pieces = self.count("fragments", 1)
        if pieces > 1:
            size = -(-len(text) // pieces)
            text = [text[at : at + size] for at in range(0, len(text), size)]
        await self.connection.send(text, text=False if self.count("binary", 0) else None)

    async def messages(self):
        async for message in self.connection:
            self.path.received += 1
            yield message

    async def read_on(self):
        """Reads until the client closes: what is not read holds up its close frame."""
        async for _ in self.messages():
            pass


PATHS = defaultdict(Path)
SERIES = {}  # when each has begun


async def echo(visit):
    async for message in visit.messages():
        await visit.connection.send(message)


async def count(visit):
    async def go():
        pad, every = "x" * visit.count("size", 0), visit.number("every", 0)
        for n in range(visit.count("n", 1000)):
            await visit.send({"n": n, "pad": pad})
            if every or n % BATCH == 0:
                await asyncio.sleep(every)
        if "close" in visit.query:
            await visit.connection.close(visit.count("close", 1000))

    await asyncio.gather(visit.read_on(), go())


async def ticks(visit):
    async def go():
        every, first = visit.number("every", 0.01), visit.count("from", 0)
        start = now = time.monotonic()
        if "series" in visit.query:
            start = SERIES.setdefault(visit.query["series"], now)
        tick = math.ceil((now - start) / every)
        while True:
            await asyncio.sleep(start + tick * every - time.monotonic())
            await visit.send({"n": first + tick})
            tick += 1

    await asyncio.gather(visit.read_on(), go())


async def close(visit):
    for n in range(visit.count("after", 0)):
        await visit.send({"n": n})
    await visit.connection.close(visit.count("code", 1000), visit.query.get("reason", ""))


async def ping(visit):
    async def pong():
        try:
            await asyncio.wait_for(await visit.connection.ping(), visit.number("timeout", 5.0))
        except asyncio.TimeoutError:
            return False
        return True

    async def go():
        pongs = [await pong() for _ in range(visit.count("n", 10))]
        await visit.send({"pings": len(pongs), "pongs": sum(pongs)})

    await asyncio.gather(visit.read_on(), go())


async def headers(visit):
    request = visit.connection.request
    await visit.send(
        {
            "path": request.path,
            "headers": list(request.headers.raw_items()),
            "subprotocol": visit.connection.subprotocol,
        }
    )
    await visit.read_on()


BAD = {
    "json": ("{not json", None),
    "binary": (b"\xff\xfe\x00", None),
    "utf8": (b'{"n": "\xff"}', True),
}


async def bad(visit):
    await visit.send({"n": 0})
    kind = visit.query.get("kind", "json")
    if kind == "frame":
        visit.connection.transport.write(b"\x83\x00")  # of an opcode that is reserved
    else:
        message, text = BAD[kind]
        await visit.connection.send(message, text=text)
        await visit.send({"n": 1})
    await visit.read_on()


async def deaf(visit):
    await visit.connection.wait_closed()


ENDPOINTS = {
    "/" + endpoint.__name__: endpoint
    for endpoint in (echo, count, ticks, close, ping, headers, bad, deaf)
}


async def serve_one(connection):
    parts = urlsplit(connection.request.path)
    path = PATHS[parts.path]
    path.opened += 1
    path.open += 1
    try:
        await ENDPOINTS[parts.path](Visit(connection, path, dict(parse_qsl(parts.query))))
    except ConnectionClosed:
        pass
    finally:
        await connection.close()
        path.close_code, path.close_reason = connection.close_code, connection.close_reason
        path.open -= 1


async def prepare(connection, request):
    """Before the handshake is answered: requests that are no handshake, and what it depends on."""
    parts = urlsplit(request.path)
    if parts.path == "/control/reset":
        PATHS.clear()
        SERIES.clear()
        return connection.respond(200, "{}")
    if parts.path == "/control/stats":
        return connection.respond(200, json.dumps({name: vars(PATHS[name]) for name in PATHS}))
    if parts.path not in ENDPOINTS:
        return connection.respond(404, f"no such path: {parts.path}")
    query = dict(parse_qsl(parts.query))
    if query.get("compression") == "off" and "Sec-WebSocket-Extensions" in request.headers:
        del request.headers["Sec-WebSocket-Extensions"]
    connection.ping_interval = float(query["ping_interval"]) if "ping_interval" in query else None
    connection.ping_timeout = float(query.get("ping_timeout", 20.0))
    await asyncio.sleep(float(query.get("handshake", 0.0)))
    return None


def choose(connection, offered):
    """The subprotocol that the query names, which need not be one that was offered."""
    query = dict(parse_qsl(urlsplit(connection.request.path).query))
    return query.get("subprotocol", offered[0] if offered else None) or None


async def main(port, certificate=None):
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    options = {"max_size": None, "close_timeout": 2.0, "ssl": context}
    async with serve(
        serve_one,
        "127.0.0.1",
        port,
        process_request=prepare,
        select_subprotocol=choose,
        subprotocols=[],
        **options,
    ):
        await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
