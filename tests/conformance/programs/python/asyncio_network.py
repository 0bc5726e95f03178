"""asyncio as a client and as a server."""

import asyncio
import os


async def echo(number):
    reader, writer = await asyncio.open_connection("inventory", 7)
    writer.write(f"message {number}".encode())
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def serve(reader, writer):
    question = await reader.readline()
    peer = writer.get_extra_info("peername")
    writer.write(b"asyncio heard %b from %b\n" % (question.strip(), repr(peer).encode()))
    await writer.drain()
    writer.close()


async def dial(port, source):
    reader, writer = await asyncio.open_connection("storefront", 7001)
    writer.write(f"{os.environ['SCENE_POD']} {port} {source}\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def main():
    print(await asyncio.gather(*(echo(number) for number in range(20))))
    for host, port in (("inventory", 7009), ("no-such-name", 7)):
        try:
            await asyncio.open_connection(host, port)
        except OSError as error:
            print(type(error).__name__, error.errno)
    server = await asyncio.start_server(serve, "0.0.0.0", 9020)
    print(server.sockets[0].getsockname())
    print(await asyncio.gather(*(dial(9020, 20100 + number) for number in range(10))))
    server.close()
    await server.wait_closed()
    print(await dial(9020, 20120))


asyncio.run(main())
