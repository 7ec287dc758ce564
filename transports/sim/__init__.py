"""Simulated networks on virtual time: `SimNetwork` is a transport for tests, `run_virtual` is the clock they run on."""

from transports.sim.channel import ChannelConditions, SimChannel
from transports.sim.loop import Deadlock, Livelock, OutOfTime, RealTimeUsed, VirtualTimeLoop, run_virtual
from transports.sim.medium import SimMedium
from transports.sim.network import LinkConditions, SimCounts, SimLink, SimNetwork, SimTransport

__all__ = [
    "ChannelConditions",
    "Deadlock",
    "LinkConditions",
    "Livelock",
    "OutOfTime",
    "RealTimeUsed",
    "SimChannel",
    "SimCounts",
    "SimLink",
    "SimMedium",
    "SimNetwork",
    "SimTransport",
    "VirtualTimeLoop",
    "run_virtual",
]
