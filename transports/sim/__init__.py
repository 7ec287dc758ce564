"""Simulated networks on virtual time: `SimNetwork` is a transport for tests, `run_virtual` is the clock they run on."""

from transports.sim.loop import Deadlock, Livelock, OutOfTime, RealTimeUsed, VirtualTimeLoop, run_virtual
from transports.sim.network import LinkConditions, SimCounts, SimLink, SimNetwork, SimTransport

__all__ = [
    "Deadlock",
    "LinkConditions",
    "Livelock",
    "OutOfTime",
    "RealTimeUsed",
    "SimCounts",
    "SimLink",
    "SimNetwork",
    "SimTransport",
    "VirtualTimeLoop",
    "run_virtual",
]
