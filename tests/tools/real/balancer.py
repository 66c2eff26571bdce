"""Takes connections on an address and leads each to one of others, in turn, as nginx does in Deckhouse's pod registry-proxy:

    balancer.py LISTEN TO...      addresses as HOST:PORT
"""

import asyncio
import sys

LISTEN, TO = sys.argv[1], sys.argv[2:]


def parts(address):
    host, _, port = address.rpartition(":")
    return host, int(port)


async def copy(source, sink):
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.close()


async def lead(reader, writer):
    TO.append(TO.pop(0))
    for address in list(TO):
        try:
            there, back = await asyncio.wait_for(asyncio.open_connection(*parts(address)), 1)
        except (OSError, asyncio.TimeoutError):
            continue
        await asyncio.gather(copy(reader, back), copy(there, writer))
        return
    writer.close()


async def main():
    server = await asyncio.start_server(lead, *parts(LISTEN))
    await server.serve_forever()


asyncio.run(main())
