"""As much of an IRC server as a bridge and one person need: nicks, channels, messages. Source: RFC 2812."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

MOTD = "No message of the day"


class IrcServer:
    def __init__(self) -> None:
        self.port = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._users: dict[str, asyncio.StreamWriter] = {}
        self._channels: dict[str, list[str]] = {}

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        for task in (serving := list(self._serving)):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nick = ""
        try:
            while line := (await reader.readline()).decode("utf-8", "replace").rstrip("\r\n"):
                command, *rest = line.split(" ")
                head, colon, trailing = (
                    " ".join(rest).partition(":")
                    if not " ".join(rest).startswith(":")
                    else (
                        "",
                        ":",
                        " ".join(rest)[1:],
                    )
                )
                arguments = [*head.split(), *([trailing] if colon else [])]
                if command.upper() == "NICK":
                    nick = arguments[0]
                    self._users[nick] = writer
                elif command.upper() == "QUIT":
                    break
                else:
                    self._do(command.upper(), nick, arguments, writer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._gone(nick)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _do(self, command: str, nick: str, arguments: list[str], writer: asyncio.StreamWriter) -> None:
        if command == "CAP" and arguments[0] in ("LS", "REQ"):
            _send(writer, f":irc.test CAP {nick or '*'} {'LS' if arguments[0] == 'LS' else 'NAK'} :")
        elif command == "USER":
            _send(writer, f":irc.test 001 {nick} :Welcome")
            _send(writer, f":irc.test 005 {nick} CHANTYPES=# PREFIX=(ov)@+ NETWORK=test :are supported by this server")
            _send(writer, f":irc.test 422 {nick} :{MOTD}")
        elif command == "PING":
            _send(writer, f":irc.test PONG irc.test :{arguments[-1]}")
        elif command == "JOIN":
            for channel in arguments[0].split(","):
                self._join(nick, channel)
        elif command in ("PRIVMSG", "NOTICE"):
            self._say(nick, f"{command} {arguments[0]} :{arguments[1]}", arguments[0])

    def _join(self, nick: str, channel: str) -> None:
        members = self._channels.setdefault(channel, [])
        if nick in members:
            return
        members.append(nick)
        for member in members:
            _send(self._users[member], f":{nick}!user@host JOIN {channel}")
        writer = self._users[nick]
        _send(writer, f":irc.test 331 {nick} {channel} :No topic is set")
        _send(writer, f":irc.test 353 {nick} = {channel} :{' '.join(members)}")
        _send(writer, f":irc.test 366 {nick} {channel} :End of NAMES list")

    def _say(self, nick: str, line: str, target: str) -> None:
        hearers = self._channels.get(target, []) if target.startswith("#") else [target]
        for hearer in hearers:
            if hearer != nick and hearer in self._users:
                _send(self._users[hearer], f":{nick}!user@host {line}")

    def _gone(self, nick: str) -> None:
        self._users.pop(nick, None)
        for members in self._channels.values():
            if nick in members:
                members.remove(nick)
                for member in members:
                    _send(self._users[member], f":{nick}!user@host QUIT :gone")


def _send(writer: asyncio.StreamWriter, line: str) -> None:
    writer.write(f"{line}\r\n".encode())


@asynccontextmanager
async def irc_server() -> AsyncIterator[IrcServer]:
    irc = IrcServer()
    server = await asyncio.start_server(irc.accept, "127.0.0.1", 0)
    irc.port = server.sockets[0].getsockname()[1]
    try:
        yield irc
    finally:
        server.close()
        await irc.close()


class IrcPerson:
    """Somebody on IRC without any bridge."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int, nick: str) -> IrcPerson:
        person = cls(*await asyncio.open_connection("127.0.0.1", port))
        person.send(f"NICK {nick}", f"USER {nick} 0 * :{nick}")
        await person.hears(" 422 ")
        return person

    def send(self, *lines: str) -> None:
        for line in lines:
            _send(self._writer, line)

    async def hears(self, part: str) -> str:
        """The next line with this in it."""
        async with asyncio.timeout(180):
            while line := (await self._reader.readline()).decode():
                if part in line:
                    return line
        raise AssertionError(f"the server ended before {part!r}")

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
