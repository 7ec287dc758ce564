"""A Bluetooth controller of our own, driven by Bumble past the system's stack: both roles over one HCI transport.

`usb:0` is a dongle (it has to be free: the system's daemon must not hold it), `tcp-client:HOST:PORT` whatever answers
HCI there, as the virtual air of the tests does. Bumble names every kind in its documentation of transports.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bumble import att, core, gatt, hci
from bumble.core import AdvertisingData
from bumble.device import Advertisement, Connection, ConnectionParametersPreferences, Device, Peer
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.gatt_client import CharacteristicProxy
from bumble.transport import open_transport
from bumble.transport.common import Transport as HciTransport

from transports.ble.radio import (
    ChannelUser,
    ConnectFailed,
    PeripheralUser,
    Radio,
    RadioDown,
    Refused,
    Sighting,
)
from transports.ble.uuids import (
    ATT_MTU_MAX,
    ATT_MTU_MIN,
    COMPANY_ID,
    CTL,
    INFO,
    RX,
    SERVICE,
    SHORT_ID_OCTETS,
    TX,
)

log = logging.getLogger(__name__)
_T = TypeVar("_T")

_CONNECT_S = 8.0
_CLOSE_S = 0.25
_INTERVAL_MS = 15.0
_SUPERVISION_MS = 4_000
_ADVERTISING_MS = 200.0
_LL_OCTETS = 251
_LL_TIME_US = 2_120
_APPLICATION_ERROR = 0x80


class BumbleRadio:
    """Implements `Central` and `Peripheral` over one controller. `open` first, `close` last; `radio` is what to use."""

    def __init__(self, device: Device, transport: HciTransport | None, name: str, *, mtu: int = ATT_MTU_MAX) -> None:
        self.device = device
        self.name = name
        self.note: str | None = None
        self._transport = transport
        self._mtu = mtu
        self._seen: Callable[[Sighting], None] | None = None
        self._down: Callable[[str], None] | None = None
        self._user: PeripheralUser | None = None
        self._service_added = False
        self._tx: Characteristic[bytes] | None = None
        self._inbound: dict[int, BumbleServerChannel] = {}
        self._connecting = False
        self._advertised: bytes | None = None
        self._room = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._commands: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, spec: str, *, mtu: int = ATT_MTU_MAX) -> BumbleRadio:
        """Raises: RadioDown, when there is no controller that answers."""
        try:
            async with asyncio.timeout(10):
                transport = await open_transport(spec)
        except Exception as error:  # noqa: BLE001  each kind of transport has errors of its own
            reason = str(error) or type(error).__name__
            raise RadioDown(f"no Bluetooth controller at {spec}: {reason} ({_advice(spec)})") from None
        device = Device.with_hci("p2p", hci.Address.generate_static_address(), transport.source, transport.sink)
        radio = cls(device, transport, spec, mtu=mtu)
        try:
            await radio.power_on()
        except BaseException:  # whatever it is, what was begun is undone, and it is raised again
            await transport.close()
            raise
        return radio

    async def power_on(self) -> None:
        """Raises: RadioDown."""
        # nothing is ever paired, so there is nothing to keep
        self.device.config.keystore = None
        try:
            async with asyncio.timeout(10):
                await self.device.power_on()
        except (TimeoutError, OSError, core.BaseBumbleError, hci.HCI_Error) as error:
            raise RadioDown(f"the controller at {self.name} does not start: {error or 'no answer'}") from None
        self.device.gatt_server.max_mtu = self._mtu
        self.device.on(Device.EVENT_ADVERTISEMENT, self._on_advertisement)
        self.device.on(Device.EVENT_CONNECTION, self._on_connection)
        self.device.on(Device.EVENT_FLUSH, self._on_flush)
        if self.device.host.le_acl_packet_queue is not None:
            self.device.host.le_acl_packet_queue.on("flow", self._room.set)

    def radio(self) -> Radio:
        return Radio(central=self, peripheral=self, name=self.name)

    async def hear(self, seen: Callable[[Sighting], None], down: Callable[[str], None]) -> None:
        self._seen, self._down = seen, down

    async def serve(self, user: PeripheralUser, down: Callable[[str], None]) -> None:
        self._user, self._down = user, down
        if not self._service_added:
            self._service_added = True
            self._add_service()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._down = None
        for channel in list(self._inbound.values()):
            channel.over("the radio is off")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.gather(*self._commands, return_exceptions=True)
                for handle in list(self.device.connections):
                    await self.hang_up(handle)
                await self._obey(self.device.stop_advertising())
                if self.device.is_scanning:
                    await self._obey(self.device.stop_scanning())
                await self.device.power_off()
        except (TimeoutError, OSError, core.BaseBumbleError, hci.HCI_Error) as error:
            log.debug("the controller does not answer", extra={"error": str(error)})
        for task in list(self._commands):
            task.cancel()
        await asyncio.gather(*self._commands, return_exceptions=True)
        if self._transport is not None:
            await self._transport.close()

    # Central

    async def scan(self, on: bool) -> None:
        if on and not self.device.is_scanning:
            await self._command(self.device.start_scanning(active=False, scanning_phys=(hci.HCI_LE_1M_PHY,)))
        elif not on and self.device.is_scanning:
            await self._command(self.device.stop_scanning())

    async def connect(self, address: str) -> BumbleClientChannel:
        connection = await self._connect(address)
        channel = BumbleClientChannel(self, connection, address)
        try:
            await channel.set_up(self._mtu)
        except BaseException:  # whatever it is, what was begun is undone, and it is raised again
            self.spawn(channel.disconnect())
            raise
        return channel

    async def _connect(self, address: str) -> Connection:
        preferences = ConnectionParametersPreferences(
            connection_interval_min=_INTERVAL_MS,
            connection_interval_max=2 * _INTERVAL_MS,
            supervision_timeout=_SUPERVISION_MS,
        )
        self._connecting = True
        dial = asyncio.get_running_loop().create_task(
            self.device.connect(
                hci.Address(address),
                connection_parameters_preferences={hci.Phy.LE_1M: preferences},
                timeout=_CONNECT_S,
            )
        )
        dial.add_done_callback(_take_result)
        try:
            connection = await asyncio.shield(dial)
        except (TimeoutError, core.TimeoutError):
            raise ConnectFailed("it does not answer") from None
        except (core.BaseBumbleError, hci.HCI_Error, OSError) as error:
            raise ConnectFailed(str(error) or type(error).__name__) from None
        except asyncio.CancelledError:
            if dial.cancelled():  # by Bumble, whose controller went away
                raise ConnectFailed("the controller is gone") from None
            await self._give_up_connecting()
            raise
        finally:
            self._connecting = False
        if connection.role != hci.Role.CENTRAL:
            # Bumble hands out whatever connection comes next, also one that somebody made to us
            await self._give_up_connecting()
            raise ConnectFailed("somebody else dialed at that moment")
        return connection

    async def _give_up_connecting(self) -> None:
        try:
            await self._obey(self.device.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command()))
        except (core.BaseBumbleError, hci.HCI_Error, OSError):
            log.debug("no connection to give up")

    def _on_advertisement(self, advertisement: Advertisement) -> None:
        if self._seen is None or not advertisement.is_connectable:
            return
        uuid = core.UUID(SERVICE).to_bytes()
        short_id, found = None, False
        for kind, data in advertisement.data.ad_structures:
            if kind in (
                AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
                AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS,
            ):
                found = found or any(data[at : at + 16] == uuid for at in range(0, len(data), 16))
            elif kind == AdvertisingData.MANUFACTURER_SPECIFIC_DATA and data[:2] == COMPANY_ID.to_bytes(2, "little"):
                short_id = data[2 : 2 + SHORT_ID_OCTETS] if len(data) >= 2 + SHORT_ID_OCTETS else None
        if found:
            self._seen(Sighting(address=str(advertisement.address), short_id=short_id))

    # Peripheral

    async def advertise(self, short_id: bytes | None) -> None:
        if self.device.is_advertising:
            await self._command(self.device.stop_advertising())
        if short_id is None:
            return
        if short_id != self._advertised and not self.device.connections and not self.device.is_scanning:
            # a new id under an old address would be no secret
            address = hci.Address.generate_static_address()
            await self._command(
                self.device.send_sync_command(hci.HCI_LE_Set_Random_Address_Command(random_address=address))
            )
            self.device.random_address = address
        self._advertised = short_id
        data = AdvertisingData(
            [
                (AdvertisingData.FLAGS, bytes([0x06])),
                (AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, core.UUID(SERVICE).to_bytes()),
                (AdvertisingData.MANUFACTURER_SPECIFIC_DATA, COMPANY_ID.to_bytes(2, "little") + short_id),
            ]
        )
        await self._command(
            self.device.start_advertising(
                advertising_data=bytes(data),
                scan_response_data=b"",
                advertising_interval_min=_ADVERTISING_MS,
                advertising_interval_max=_ADVERTISING_MS,
            )
        )

    def _add_service(self) -> None:
        properties = Characteristic.Properties
        self._tx = Characteristic(TX, properties.NOTIFY, Characteristic.Permissions(0))
        self.device.add_service(
            Service(
                SERVICE,
                [
                    Characteristic(
                        INFO, properties.READ, Characteristic.READABLE, CharacteristicValue(read=self._on_read_info)
                    ),
                    Characteristic(
                        CTL, properties.WRITE, Characteristic.WRITEABLE, CharacteristicValue(write=self._on_control)
                    ),
                    Characteristic(
                        RX,
                        properties.WRITE_WITHOUT_RESPONSE,
                        Characteristic.WRITEABLE,
                        CharacteristicValue(write=self._on_data),
                    ),
                    self._tx,
                ],
            )
        )

    def _on_connection(self, connection: Connection) -> None:
        if connection.transport != core.PhysicalTransport.LE:
            return
        self.spawn(_use_long_packets(connection))
        if connection.role == hci.Role.CENTRAL:
            if self._seen is not None and not self._connecting:  # it was given up and came nevertheless
                self.spawn(self.hang_up(connection.handle))
            return
        if self._user is None:
            self.spawn(self.hang_up(connection.handle))
            return
        channel = BumbleServerChannel(self, connection)
        self._inbound[connection.handle] = channel
        connection.on(Connection.EVENT_DISCONNECTION, lambda reason: channel.over(_reason(reason)))
        self._user.dialed(channel)

    def _on_read_info(self, _connection: Connection) -> bytes:
        return self._user.info() if self._user is not None else b""

    def _on_control(self, connection: Connection, value: bytes) -> None:
        channel = self._inbound.get(connection.handle)
        try:
            if channel is None or self._user is None:
                raise Refused
            self._user.control(channel, bytes(value))
        except Refused:
            raise att.ATT_Error(error_code=_APPLICATION_ERROR) from None

    def _on_data(self, connection: Connection, value: bytes) -> None:
        channel = self._inbound.get(connection.handle)
        if channel is not None and self._user is not None:
            self._user.data(channel, bytes(value))

    # both

    def channel_over(self, channel: BumbleServerChannel, reason: str) -> None:
        self._inbound.pop(channel.connection.handle, None)
        if self._user is not None:
            self._user.hung_up(channel, reason)

    async def notify(self, connection: Connection, datagram: bytes) -> None:
        await self.wait_for_room(connection)
        assert self._tx is not None
        await self.device.gatt_server.notify_subscriber(connection, self._tx, datagram)

    async def wait_for_room(self, connection: Connection) -> None:
        """Until the controller has a buffer free, so that what waits, waits where priorities are known."""
        queue = self.device.host.le_acl_packet_queue
        while queue is not None and queue.pending >= queue.max_in_flight and self.is_alive(connection):
            self._room.clear()
            await self._room.wait()

    def is_alive(self, connection: Connection) -> bool:
        return not self._closed and self.device.connections.get(connection.handle) is connection

    def stir(self) -> None:
        """Lets those that wait for room look whether their connection still lives."""
        self._room.set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._closed:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(_quietly(work), name=f"ble {self.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_flush(self) -> None:
        """The HCI transport is gone, and with it every connection."""
        for channel in list(self._inbound.values()):
            channel.over("the controller is gone")
        self._room.set()
        if self._down is not None:
            self._down(f"the controller at {self.name} is gone")

    async def hang_up(self, handle: int) -> None:
        """Ends a connection; its end is told as every other."""
        reason = hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR
        await self._obey(
            _quietly(
                self.device.send_async_command(hci.HCI_Disconnect_Command(connection_handle=handle, reason=reason))
            )
        )

    async def _obey(self, command: Coroutine[Any, Any, _T]) -> _T:
        """An HCI command is heard to its end though nobody waits for it: the next answer is not its own."""
        task = asyncio.get_running_loop().create_task(command)
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        task.add_done_callback(_take_result)
        return await asyncio.shield(task)

    async def _command(self, command: Coroutine[Any, Any, _T]) -> _T:
        try:
            return await self._obey(command)
        except (core.BaseBumbleError, hci.HCI_Error, OSError) as error:
            raise RadioDown(f"the controller at {self.name} does not obey: {error}") from None


class BumbleServerChannel:
    """A connection that somebody made to us."""

    def __init__(self, radio: BumbleRadio, connection: Connection) -> None:
        self.connection = connection
        self.address = str(connection.peer_address)
        self._radio = radio
        self._over = False

    @property
    def att_mtu(self) -> int:
        return self.connection.att_mtu

    async def write(self, datagram: bytes) -> None:
        await self._radio.notify(self.connection, datagram)
        if self._over:
            raise RadioDown("the connection is over")

    async def disconnect(self) -> None:
        if not self._over:
            await self._radio.hang_up(self.connection.handle)

    def over(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._radio.stir()
            self._radio.channel_over(self, reason)


class BumbleClientChannel:
    """A connection that we made."""

    def __init__(self, radio: BumbleRadio, connection: Connection, address: str) -> None:
        self.address = address
        self._radio = radio
        self._connection = connection
        self._peer = Peer(connection)
        self._characteristics: dict[str, CharacteristicProxy[bytes]] = {}
        self._user: ChannelUser | None = None
        self._over = asyncio.get_running_loop().create_future()
        self._over_because = ""
        connection.on(Connection.EVENT_DISCONNECTION, lambda reason: self._end(_reason(reason)))
        radio.device.on(Device.EVENT_FLUSH, self._on_flush)

    @property
    def att_mtu(self) -> int:
        return self._connection.att_mtu

    async def set_up(self, mtu: int) -> None:
        """Raises: ConnectFailed."""
        if mtu > ATT_MTU_MIN:
            await self._answered(self._peer.request_mtu(mtu))
        for service in await self._answered(self._peer.discover_service(SERVICE)):
            for found in await self._answered(service.discover_characteristics()):
                self._characteristics[found.uuid.to_hex_str("-").lower()] = found
        missing = {INFO, CTL, RX, TX} - self._characteristics.keys()
        if missing:
            raise ConnectFailed("it does not have the service that it announced")

    async def read_info(self) -> bytes:
        return bytes(await self._answered(self._characteristics[INFO].read_value()))

    async def subscribe(self, user: ChannelUser) -> None:
        self._user = user
        await self._answered(self._characteristics[TX].subscribe(lambda value: user.datagram_arrived(bytes(value))))

    async def write_control(self, octets: bytes) -> None:
        await self._answered(self._characteristics[CTL].write_value(octets, with_response=True))

    async def write(self, datagram: bytes) -> None:
        await self._radio.wait_for_room(self._connection)
        if self._over.done():
            raise RadioDown(self._over_because)
        await self._characteristics[RX].write_value(datagram, with_response=False)

    async def disconnect(self) -> None:
        if not self._over.done():
            await self._radio.hang_up(self._connection.handle)

    async def _answered(self, operation: Coroutine[Any, Any, _T]) -> _T:
        """An ATT operation that ends when the connection does. Raises: ConnectFailed."""
        task = asyncio.get_running_loop().create_task(operation)
        try:
            await asyncio.wait({task, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ConnectFailed(self._over_because)
            return task.result()
        except (core.BaseBumbleError, gatt.InvalidServiceError, hci.HCI_Error, OSError, TimeoutError) as error:
            raise ConnectFailed(str(error) or type(error).__name__) from None
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _on_flush(self) -> None:
        self._end("the controller is gone")

    def _end(self, reason: str) -> None:
        if self._over.done():
            return
        self._over_because = reason
        self._over.set_result(None)
        self._radio.device.remove_listener(Device.EVENT_FLUSH, self._on_flush)
        self._radio.stir()
        if self._user is not None:
            self._user.channel_over(reason)


def _advice(spec: str) -> str:
    """What to look at when there is no controller."""
    kind = spec.partition(":")[0]
    if kind in ("usb", "pyusb"):
        return "is the dongle plugged in, may this user open it, and does neither the system nor a program hold it?"
    if kind in ("tcp-client", "unix-client", "ws-client"):
        return "does anything answer HCI there?"
    if kind in ("serial", "hci-socket", "vhci"):
        return "is the device there, and may this user open it?"
    return "known are usb:0, tcp-client:HOST:PORT, serial:DEVICE and what else Bumble names"


def _reason(code: int) -> str:
    """A disconnection's reason for people (Core Specification, volume 1, part F)."""
    return {
        hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR: "out of range",
        hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR: "closed by the other side",
        hci.HCI_ErrorCode.CONNECTION_TERMINATED_BY_LOCAL_HOST_ERROR: "closed here",
    }.get(hci.HCI_ErrorCode(code), f"ended with Bluetooth error 0x{code:02x}")


async def _use_long_packets(connection: Connection) -> None:
    """Asks for packets of 251 octets: without, a datagram travels in ten."""
    if connection.device.supports_le_features(hci.LeFeatureMask.LE_DATA_PACKET_LENGTH_EXTENSION):
        await connection.set_data_length(_LL_OCTETS, _LL_TIME_US)


async def _quietly(work: Coroutine[Any, Any, Any]) -> None:
    """Work whose failure is told by a disconnection, if it matters."""
    try:
        await work
    except (core.BaseBumbleError, hci.HCI_Error, OSError) as error:
        log.debug("a Bluetooth operation failed", extra={"error": str(error)})


def _take_result(task: asyncio.Task[Any]) -> None:
    """For a task that may be left alone: what became of it was told already."""
    if not task.cancelled():
        task.exception()
