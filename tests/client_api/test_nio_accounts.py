"""Accounts as matrix-nio asks for them: login tokens, OpenID, devices and their deletion, whoami, logging out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nio

from tests.client_api.test_nio_client import _served


async def test_an_account_through_its_life_by_nio(tmp_path: Path) -> None:
    async with _served(tmp_path / "node.db") as url:
        laptop = nio.AsyncClient(url, "anna")
        made: Any = await laptop.register("anna", "secret", "laptop")
        assert isinstance(made, nio.RegisterResponse)
        assert isinstance(await laptop.whoami(), nio.WhoamiResponse)
        info: Any = await laptop.login_info()
        assert info.flows == ["m.login.password", "m.login.token"]
        openid: Any = await laptop.get_openid_token(laptop.user_id)
        assert isinstance(openid, nio.GetOpenIDTokenResponse)
        assert (openid.token_type, openid.expires_in) == ("Bearer", 3600)

        auth = {"type": "m.login.password", "user": laptop.user_id, "password": "secret"}
        response = await laptop.send(
            "POST",
            "/_matrix/client/v1/login/get_token",
            data=f'{{"auth": {{"type": "m.login.password", "user": "{laptop.user_id}", "password": "secret"}}}}',
            headers={"Authorization": f"Bearer {laptop.access_token}", "Content-Type": "application/json"},
        )
        token = (await response.json())["login_token"]
        phone = nio.AsyncClient(url, "anna")
        logged_in: Any = await phone.login(token=token, device_name="phone")
        assert isinstance(logged_in, nio.LoginResponse)
        assert logged_in.user_id == laptop.user_id
        devices: Any = await laptop.devices()
        assert {device.display_name for device in devices.devices} == {"laptop", "phone"}
        assert all(device.last_seen_date is not None for device in devices.devices)

        asked: Any = await laptop.delete_devices([phone.device_id])
        assert isinstance(asked, nio.DeleteDevicesAuthResponse)
        deleted = await laptop.delete_devices([phone.device_id], {**auth, "session": asked.session})
        assert isinstance(deleted, nio.DeleteDevicesResponse)
        refused: Any = await phone.whoami()
        assert (refused.status_code, refused.soft_logout) == ("M_UNKNOWN_TOKEN", False)
        wrong: Any = await phone.login("not it")
        assert wrong.status_code == "M_FORBIDDEN"
        assert isinstance(await laptop.logout(), nio.LogoutResponse)
        for client in (laptop, phone):
            await client.close()
