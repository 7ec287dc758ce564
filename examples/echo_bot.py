"""A bot that repeats what it hears, on matrix-nio (`pip install matrix-nio`).

p2pserver register echo --password secret
python examples/echo_bot.py http://127.0.0.1:8008 echo secret
"""

import asyncio
import sys

from nio import AsyncClient, InviteMemberEvent, LoginResponse, MatrixRoom, RoomMessageText


async def main(url: str, user: str, password: str) -> None:
    client = AsyncClient(url, user)
    try:
        answer = await client.login(password, device_name="echo bot")
        if not isinstance(answer, LoginResponse):
            sys.exit(f"cannot log in: {answer}")
        print(answer)
        await client.sync(timeout=0)  # what was said before the bot came is not echoed

        async def on_message(room: MatrixRoom, event: RoomMessageText) -> None:
            if event.sender != client.user_id:
                content = {"msgtype": "m.notice", "body": event.body}
                await client.room_send(room.room_id, "m.room.message", content)

        async def on_invite(room: MatrixRoom, event: InviteMemberEvent) -> None:
            if event.membership == "invite":
                await client.join(room.room_id)

        client.add_event_callback(on_message, RoomMessageText)
        client.add_event_callback(on_invite, InviteMemberEvent)
        await client.sync_forever(timeout=30_000)
    finally:
        await client.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        print("stopped")
