"""The conformance suite for two LAN transports that have only mDNS to find each other.

Not collected by itself: anybody else's node on the same network would be found as well. `test_lan_netns.py` runs it on
a host of its own.
"""

from __future__ import annotations

from transports.conformance import TransportConformance
from transports.contract import Transport
from transports.lan import LanTransport


class TestLanByMdns(TransportConformance):
    def make(self, side: str) -> Transport:
        return LanTransport.from_parameters("")


class TestLanByMdnsOnLoopback(TransportConformance):
    def make(self, side: str) -> Transport:
        return LanTransport.from_parameters("listen=127.0.0.1:0")
