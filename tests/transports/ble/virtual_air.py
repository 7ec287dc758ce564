"""A room full of Bluetooth controllers that do not exist: Bumble's, joined by an air that takes time and has walls.

What it adds to `bumble.link.LocalLink`: airtime at the 1M PHY, half duplex (`paced`), who is in reach of whom
(`part`, `meet`), a supervision timeout for those that are not, controllers that refuse a second connection between the
same two addresses, and a connect that can be given up, as controllers have it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

from bumble import controller as virtual
from bumble import hci, link, ll

LL_OCTETS = 251
T_IFS_US = 150
OVERHEAD_OCTETS = 10
"""Preamble 1, access address 4, header 2, CRC 3 (Core Specification, volume 6, part B, 2.1)."""
SUPERVISION_S = 0.3
ENHANCED_COMPLETE_BIT = 1 << 9
"""Of the LE event mask (Core Specification, volume 4, part E, 7.8.1)."""


class VirtualAir(link.LocalLink):
    """`paced`: data takes the time that it takes at 1 Mbit/s, and only one sends at a time."""

    def __init__(
        self, *, paced: bool = False, supervision_s: float = SUPERVISION_S, ll_octets: int = LL_OCTETS
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paced = paced
        self.supervision_s = supervision_s
        self.ll_octets = ll_octets
        self.counts: Counter[str] = Counter()
        self._busy_until = 0.0
        self._apart: set[frozenset[str]] = set()
        self._numbers = itertools.count(1)

    # who is in reach

    def part(self, a: str, b: str) -> None:
        """Controllers of these names are out of range of each other: silence, and after a while both notice."""
        self._apart.add(frozenset((a, b)))
        asyncio.get_running_loop().call_later(self.supervision_s, self._notice)

    def meet(self, a: str, b: str) -> None:
        self._apart.discard(frozenset((a, b)))

    def together(self, a: virtual.Controller, b: virtual.Controller) -> bool:
        return frozenset((a.name, b.name)) not in self._apart

    def lose(self, gone: AirController) -> None:
        """A controller without power: it says nothing more, and the others notice after a while."""
        gone.power_off()
        self.remove_controller(gone)
        asyncio.get_running_loop().call_later(self.supervision_s, self._notice)

    def _notice(self) -> None:
        """The supervision timeout of those whose other end is silent."""
        silent = []
        for one, connection in [(some, each) for some in self.controllers for each in some.le_connections.values()]:
            other = self._other_end(one, connection)
            if other is None or not self.together(one, other):
                silent.append((one, connection))
        for one, connection in silent:
            one.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def _other_end(self, one: virtual.Controller, connection: virtual.Connection) -> virtual.Controller | None:
        return next(
            (
                other
                for other in self.controllers
                if other is not one
                and (mirror := other.le_connections.get(connection.self_address)) is not None
                and mirror.self_address == connection.peer_address
            ),
            None,
        )

    # what is in the air

    def airtime_s(self, octets: int) -> float:
        """Of one L2CAP PDU: its packets, an empty one that answers each, and the spaces between."""
        packets = [min(self.ll_octets, octets - at) for at in range(0, octets, self.ll_octets)]
        return sum((2 * OVERHEAD_OCTETS + size) * 8 + 2 * T_IFS_US for size in packets) / 1e6

    def transmit_at(self, octets: int) -> float:
        """Takes the air for a PDU; when it has been sent."""
        self._busy_until = max(self._busy_until, asyncio.get_running_loop().time()) + self.airtime_s(octets)
        return self._busy_until

    def send_acl_data(
        self, sender_controller: virtual.Controller, destination_address: hci.Address, transport: Any, data: bytes
    ) -> None:
        connection = sender_controller.le_connections.get(destination_address)
        receiver = connection and self._other_end(sender_controller, connection)
        if connection is None or receiver is None or not self.together(sender_controller, receiver):
            return
        self.counts["pdus"] += 1
        self.counts["octets"] += len(data)
        asyncio.get_running_loop().call_soon(self._deliver, receiver, connection.self_address, transport, data)

    @staticmethod
    def _deliver(receiver: virtual.Controller, sender: hci.Address, transport: Any, data: bytes) -> None:
        if sender in receiver.le_connections:
            receiver.on_link_acl_data(sender, transport, data)

    def send_advertising_pdu(self, sender_controller: virtual.Controller, packet: ll.AdvertisingPdu) -> None:
        for other in self.controllers:
            if other is not sender_controller and self.together(sender_controller, other):
                asyncio.get_running_loop().call_soon(other.on_ll_advertising_pdu, packet)

    def send_ll_control_pdu(
        self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu
    ) -> None:
        for receiver in self.controllers:
            mirror = receiver.le_connections.get(sender_address)
            if mirror is not None and mirror.self_address == receiver_address:
                sender = self._other_end(receiver, mirror)
                if sender is not None and self.together(sender, receiver):
                    asyncio.get_running_loop().call_soon(self._control, receiver, sender_address, packet)

    @staticmethod
    def _control(receiver: virtual.Controller, sender_address: hci.Address, packet: ll.ControlPdu) -> None:
        if sender_address in receiver.le_connections:
            receiver.on_ll_control_pdu(sender_address, packet)

    def controller(self, name: str = "", *, host_source: Any = None, host_sink: Any = None) -> AirController:
        """A controller of this air; without a host it waits to be given one."""
        number = next(self._numbers)
        return AirController(
            name or f"C{number}",
            host_source=host_source,
            host_sink=host_sink,
            link=self,
            public_address=f"F0:F1:F2:F3:{number >> 8:02X}:{number & 255:02X}",
        )


class AirController(virtual.Controller):
    """A Bluetooth 5 dongle of the usual kind: eight buffers of 251 octets."""

    le_acl_data_packet_length = LL_OCTETS
    total_num_le_acl_data_packets = 8
    supported_max_tx_octets = LL_OCTETS
    supported_max_rx_octets = LL_OCTETS

    def send_hci_packet(self, packet: hci.HCI_Packet) -> None:
        """As a controller with extended advertising it tells connections by the enhanced event, if that is wanted.

        Linux waits for no other: without it, it gives up each connection after 4 s, and forgets that it has it.
        """
        if isinstance(packet, hci.HCI_LE_Connection_Complete_Event) and self.le_event_mask & ENHANCED_COMPLETE_BIT:
            packet = hci.HCI_LE_Enhanced_Connection_Complete_Event(
                status=packet.status,
                connection_handle=packet.connection_handle,
                role=packet.role,
                peer_address_type=packet.peer_address_type,
                peer_address=packet.peer_address,
                local_resolvable_private_address=hci.Address.ANY,
                peer_resolvable_private_address=hci.Address.ANY,
                connection_interval=packet.connection_interval,
                peripheral_latency=packet.peripheral_latency,
                supervision_timeout=packet.supervision_timeout,
                central_clock_accuracy=packet.central_clock_accuracy,
            )
        super().send_hci_packet(packet)

    def power_off(self) -> None:
        """Silent from now on."""
        self.le_legacy_advertiser.stop()
        for advertised in self.advertising_sets.values():
            advertised.stop()
        self.host = None

    def on_le_connect_ind(self, packet: ll.ConnectInd) -> None:
        if packet.initiator_address not in self.le_connections:
            super().on_le_connect_ind(packet)
        self._pace_connections()

    def create_le_connection(self, peer_address: hci.Address) -> None:
        if peer_address in self.le_connections:
            self._connect_failed(hci.HCI_ErrorCode.CONNECTION_ALREADY_EXISTS_ERROR)
            return
        super().create_le_connection(peer_address)
        self._pace_connections()

    def on_hci_le_set_data_length_command(self, command: Any) -> Any:
        return hci.HCI_StatusAndConnectionHandleReturnParameters(
            hci.HCI_ErrorCode.SUCCESS, connection_handle=command.connection_handle
        )

    def on_hci_le_create_connection_cancel_command(self, command: Any) -> Any:
        if self.pending_le_connection is not None:
            asyncio.get_running_loop().call_soon(
                self._connect_failed, hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR
            )
        return super().on_hci_le_create_connection_cancel_command(command)

    def _connect_failed(self, status: hci.HCI_ErrorCode) -> None:
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is None:
            return
        self.send_hci_packet(
            hci.HCI_LE_Connection_Complete_Event(
                status=status,
                connection_handle=0,
                role=hci.Role.CENTRAL,
                peer_address_type=pending.peer_address_type,
                peer_address=pending.peer_address,
                connection_interval=0,
                peripheral_latency=0,
                supervision_timeout=0,
                central_clock_accuracy=0,
            )
        )

    def _pace_connections(self) -> None:
        air = self.link
        assert isinstance(air, VirtualAir)
        if not air.paced:
            return
        for address, connection in self.le_connections.items():
            if not isinstance(connection, _PacedConnection):
                self.le_connections[address] = _PacedConnection(
                    controller=self,
                    handle=connection.handle,
                    role=connection.role,
                    self_address=connection.self_address,
                    peer_address=connection.peer_address,
                    link=connection.link,
                    transport=connection.transport,
                    link_type=connection.link_type,
                )


class _PacedConnection(virtual.Connection):
    """The controller's buffer is free again when the packet has been sent."""

    def on_hci_acl_data_packet(self, packet: hci.HCI_AclDataPacket) -> None:
        assert isinstance(self.link, VirtualAir)
        asyncio.get_running_loop().call_at(self.link.transmit_at(len(packet.data)), self._sent, packet)

    def _sent(self, packet: hci.HCI_AclDataPacket) -> None:
        if self.controller.le_connections.get(self.peer_address) is self:
            super().on_hci_acl_data_packet(packet)
