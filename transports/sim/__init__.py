"""Simulated networks on virtual time: `SimNetwork` is a transport for tests, `run_virtual` is the clock they run on."""

from transports.sim.across import LinkAcross, NetworkAcross, TransportAcross
from transports.sim.channel import ChannelConditions, SimChannel
from transports.sim.loop import Deadlock, Livelock, OutOfTime, RealTimeUsed, VirtualTimeLoop, run_virtual
from transports.sim.medium import SimMedium
from transports.sim.network import LinkConditions, SimCounts, SimLink, SimNetwork, SimTransport
from transports.sim.seam import OtherHalfGone, Seam, run_beside

__all__ = [
    "ChannelConditions",
    "Deadlock",
    "LinkAcross",
    "LinkConditions",
    "Livelock",
    "NetworkAcross",
    "OtherHalfGone",
    "OutOfTime",
    "RealTimeUsed",
    "Seam",
    "SimChannel",
    "SimCounts",
    "SimLink",
    "SimMedium",
    "SimNetwork",
    "SimTransport",
    "TransportAcross",
    "VirtualTimeLoop",
    "run_beside",
    "run_virtual",
]
