"""One pipe: a secure datagram channel to one peer over one transport link.

The owner hands in datagrams and the time, and takes out datagrams, deadlines and events; nothing here waits, reads a
clock or raises for what the other side sends. The layout of datagrams and the rules are in docs/link.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pserver.link.conversation import Conversation
from p2pserver.link.copies import Copies
from p2pserver.link.errors import LocalLinkError, PeerCut, PeerRefused, RemoteLinkError
from p2pserver.link.frames import (
    PING,
    WHOLE_BITS,
    Ack,
    Credit,
    Fragment,
    Frame,
    Goodbye,
    Held,
    Ping,
    decode_frames,
    encode_ack,
    encode_credit,
    encode_goodbye,
)
from p2pserver.link.handshake import Handshake, Message, early_room
from p2pserver.link.limits import (
    ACK_LATE_MAX,
    ALL_CLASSES,
    BAD_DATAGRAMS_MAX,
    COUNTER_MAX,
    DATAGRAM_OCTETS_MAX,
    DATAGRAM_OCTETS_MIN,
    FORGERIES_MAX,
    UNHEARD_MAX,
    LinkTimers,
    Priority,
)
from p2pserver.link.link_events import LinkEvent, PeerAuthenticated, PipeDead
from p2pserver.link.liveness import Liveness
from p2pserver.link.node_key import EPOCHS, Introduction, is_node_key, node_key_of, sign_of
from p2pserver.link.outgoing import FragmentSent
from p2pserver.link.pacing import Pacer
from p2pserver.link.path import Path
from p2pserver.link.pipe_state import INPUT_OF, TRANSITIONS, PipeInput, PipeState
from p2pserver.link.positions import PositionsReceived, PositionsSent
from p2pserver.link.recovery import Recovery, SentDatagram
from p2pserver.link.replay import Arrivals, ReplayWindow
from p2pserver.link.sealing import SECURED, SHORT_HEADER_OCTETS, Opener, Sealer, link_tag_of
from p2pserver.link.voice import Voice

COMPANY_OCTETS_LEAST = 32
"""An acknowledgement goes alone where it would leave less than this for what goes with it."""


class LinkEndpoint:
    """One end of a pipe. After each call that may change something, ask `poll_transmit` and `next_deadline`."""

    def __init__(
        self,
        signer_seed: bytes,
        initiator: bool,
        datagram_octets_max: int,
        random_bytes: Callable[[int], bytes],
        now: float,
        allow: Callable[[bytes], bool],
        *,
        local_epoch: int,
        timers: LinkTimers | None = None,
        pacer: Pacer | None = None,
        known_key: bytes | None = None,
        early: Conversation | None = None,
    ) -> None:
        """`signer_seed`: the 32 octets of the node's Ed25519 seed. `allow(key)`: may the node of that key talk to us?

        `local_epoch`: the same as in `Conversation`. `pacer`: of the line; None: datagrams are given out at once.
        `known_key`: an initiator expects the node of that key, which shortens the handshake if it is right; `early`:
        the conversation with that node, whose first fragments then go in the first datagram.
        Raises: LocalLinkError, if no datagram of that size can be made, or a key or an epoch is none.
        """
        if not DATAGRAM_OCTETS_MIN <= datagram_octets_max <= DATAGRAM_OCTETS_MAX:
            raise LocalLinkError(f"datagrams of {datagram_octets_max} octets")
        if not 0 <= local_epoch < EPOCHS:
            raise LocalLinkError("no epoch is so large")
        if known_key is not None and not (initiator and is_node_key(known_key)):
            raise LocalLinkError("no node key is known")
        self.local_epoch = local_epoch
        self._timers = timers or LinkTimers()
        self._octets_max = datagram_octets_max
        self._allow = allow
        self.own_key_epoch: int | None = None
        """The epoch of the other side, if it holds our own key: of this process, or of another one with the key."""
        self._own_key = node_key_of(signer_seed)
        self._state = PipeState.AWAIT_SECOND if initiator else PipeState.AWAIT_FIRST
        self._handshake = Handshake(
            signer_seed,
            Introduction(sign_of(self._own_key), local_epoch),
            initiator=initiator,
            datagram_octets_max=datagram_octets_max,
            random_bytes=random_bytes,
            timers=self._timers,
            now=now,
            known_key=known_key,
            early=early.early(early_room(datagram_octets_max)) if early and known_key else b"",
        )
        self._pacer = pacer or Pacer()
        self._voice = Voice(self._pacer, datagram_octets_max)
        self._recovery = Recovery(datagram_octets_max, self._timers)
        self._liveness = Liveness(self._timers, self._recovery, now)
        self._copies = Copies(self._recovery, self._pacer, self._timers)
        self.path = Path(self._recovery, self._copies)
        self._replay = ReplayWindow()
        self._positions_sent = PositionsSent()
        self._positions_received = PositionsReceived()
        self._arrivals = Arrivals(self._timers)
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._conversation: Conversation | None = None
        self._peer: Introduction | None = None
        self._peer_key = b""
        self._early: list[Fragment] = []
        """What the peer said in message 1 of IK; nothing before it has answered: message 1 may be an old one."""
        self._confirmation: tuple[bytes, float] | None = None
        """Its first secured datagram, which waits for its conversation likewise, and when it came."""
        self._events: list[LinkEvent] = []
        self._last_words: list[bytes] = []
        self._bad_datagrams = 0
        self._bad_in_a_row = 0

    # State

    @property
    def state(self) -> PipeState:
        return self._state

    @property
    def peer_key(self) -> bytes | None:
        """The Ed25519 key of the other side, once it is proved."""
        return self._peer_key or None

    @property
    def bad_datagrams(self) -> int:
        """Datagrams with a wrong tag or without sense, so far."""
        return self._bad_datagrams

    def events(self) -> list[LinkEvent]:
        """What happened since the last call."""
        drained, self._events = self._events, []
        return drained

    # The conversation

    def attach(self, conversation: Conversation) -> None:
        """Carry this peer's conversation from now on, all classes of it; so do other pipes that it is attached to.

        Raises: LocalLinkError, if the peer is not known (yet), or the conversation is of another epoch of ours.
        """
        if self._peer is None or self._state is PipeState.DEAD:
            raise LocalLinkError("no peer to talk to")
        if conversation.local_epoch != self.local_epoch:
            raise LocalLinkError("the conversation and the pipe differ in their epoch")
        if conversation is self._conversation:
            return
        self.detach()
        conversation.enter(self, self._peer.epoch)
        self._conversation = conversation
        self._voice.carry(ALL_CLASSES)
        early, self._early = self._early, []
        confirmation, self._confirmation = self._confirmation, None
        try:
            for fragment in early:
                conversation.fragment_received(fragment)
        except RemoteLinkError as error:
            self._step(PipeInput.FAULT, f"protocol error of the peer: {error}")
            return
        if confirmation is not None:
            self.datagram_received(*confirmation)

    def detach(self) -> None:
        """Carry no conversation; what the peer did not acknowledge goes over another pipe."""
        if self._conversation is not None:
            self._give_up(self._recovery.in_flight)
            self._conversation.leave(self)
            self.displaced()

    def carry(self, classes: Sequence[Priority], *, give_back: bool) -> None:
        """Send messages of these classes alone, in this order; receive all.

        `give_back`: what is on its way of the others may be sent again over another pipe at once.
        """
        gone = self._voice.carry(classes)
        if gone and give_back and self._conversation is not None:
            for datagram in self._recovery.in_flight:
                fresh = gone - datagram.given_back
                self._conversation.fragments_lost([sent for sent in datagram.fragments if sent.priority in fresh])
                datagram.given_back |= fresh

    @property
    def classes(self) -> Sequence[Priority]:
        """What it sends."""
        return self._voice.classes

    @property
    def timeouts(self) -> int:
        """How often in a row nothing was acknowledged in time; at least 1 until the peer has confirmed the pipe."""
        return max(self._recovery.timeouts, int(self._state is PipeState.UNCONFIRMED))

    def displaced(self) -> None:
        self._conversation = None
        self._copies.forget()
        self._recovery.forget()

    def close(self, reason: str, now: float) -> None:
        """Say goodbye and end. The datagram that says it comes out of the next `poll_transmit`."""
        self._say_goodbye(reason, now)
        self._step(PipeInput.CLOSE, f"closed here: {reason}")

    # Datagrams and time

    def datagram_received(self, data: bytes, now: float) -> None:
        """Take a datagram from the transport. Never raises for what is in it."""
        if self._state is PipeState.DEAD:
            return
        try:
            if not 0 < len(data) <= DATAGRAM_OCTETS_MAX:
                raise RemoteLinkError("a datagram of no or too many octets")
            if data[0] & SECURED:
                self._secured_received(bytes(data), now)
            else:
                self._handshake_received(bytes(data), now)
        except PeerRefused as refused:
            self._step(PipeInput.REFUSED, str(refused))
        except RemoteLinkError:
            self._bad_datagrams += 1
            self._bad_in_a_row += 1
            if self._bad_in_a_row >= BAD_DATAGRAMS_MAX or self._bad_datagrams >= FORGERIES_MAX:
                self._step(PipeInput.FAULT, "too many bad datagrams")

    def poll_transmit(self, now: float) -> list[bytes]:
        """Datagrams to hand to the transport now, in this order."""
        if self._last_words or self._state is PipeState.DEAD:
            words, self._last_words = self._last_words, []
            return words if self._voice.may_speak(now) else []
        if not self._voice.may_speak(now):
            return []
        out = self._handshake.transmit(now)
        for part in out:
            self._pacer.sent(len(part), now)
        if self._sealer is not None:
            while (datagram := self._next_datagram(now)) is not None:
                out.append(datagram)
        return out

    def next_deadline(self) -> float | None:
        """When to call `handle_timeout` and `poll_transmit`, if nothing else happens before."""
        if self._state is PipeState.DEAD:
            return None
        deadlines = [self._handshake.repeat_at]
        if self._state is not PipeState.ESTABLISHED:
            deadlines.append(self._handshake.fails_at)
        if self._sealer is not None:
            dead_at = self._liveness.dead_at(self._voice.silent_until)
            deadlines += [self._arrivals.due_at, dead_at, self._liveness.ping_at()]
            deadlines.append(self._recovery.next_deadline(may_time_out=not self._sends_on()))
            if self._pacer.paces and self._has_data() and self._recovery.may_send:
                deadlines.append(self._pacer.send_at)
            deadlines.append(self._voice.grows_at)
        earliest = min((deadline for deadline in deadlines if deadline is not None), default=None)
        return earliest if earliest is None else max(earliest, self._voice.silent_until)

    def handle_timeout(self, now: float) -> None:
        """Do what is due; it does no harm to call it early."""
        if self._state is PipeState.DEAD:
            return
        if now < self._voice.silent_until:
            return
        if self._state is not PipeState.ESTABLISHED and now >= self._handshake.fails_at:
            self._step(PipeInput.SILENCE, "the handshake made no progress")
        elif self._sealer is not None:
            dead_at = self._liveness.dead_at(self._voice.silent_until)
            if dead_at is not None and now >= dead_at:
                self._step(PipeInput.SILENCE, "the peer is silent")
                return
            self._give_up(self._recovery.lost(now))
            overdue = None if self._sends_on() else self._recovery.timed_out(now)
            self._give_up(overdue or [])
            ping_at = self._liveness.ping_at()
            if overdue is not None or (ping_at is not None and now >= ping_at):
                self._liveness.ping_due = True

    # Receiving

    def _handshake_received(self, datagram: bytes, now: float) -> None:
        if self._state is PipeState.ESTABLISHED:
            if not self._handshake.initiator or self._handshake.is_known:
                self._liveness.ping_due = True
            return
        message = self._handshake.datagram_received(datagram, now)
        if message is Message.FIRST:
            self._sealer = self._opener = None
            self._step(PipeInput.FIRST)
        elif message is not None:
            self._derive_keys(now)
            if message is Message.KNOWN_FIRST:
                self._step(PipeInput.KNOWN_FIRST)
            else:
                self._peer_known(INPUT_OF[message], now)

    def _derive_keys(self, now: float) -> None:
        send, receive, handshake_hash = self._handshake.split()
        link_tag = link_tag_of(handshake_hash)
        self._sealer, self._opener = Sealer(send, link_tag, self._octets_max, now), Opener(receive, link_tag)

    def _peer_known(self, happened: PipeInput, now: float) -> None:
        """The other side has proved to be there and to hold its key. Raises: PeerRefused."""
        peer, peer_key = self._handshake.peer, self._handshake.peer_key
        assert peer is not None
        self._liveness.heard_at = now
        if self._handshake.round_trip is not None:
            self._recovery.trip.sample(self._handshake.round_trip, 0.0, now)
        self._check_peer(peer_key, now)
        self._peer, self._peer_key = peer, peer_key
        if happened is not PipeInput.SECOND:
            self._handshake.stop()
            self._liveness.ping_due = True
        self._step(happened)
        self._events.append(PeerAuthenticated(peer_key, peer.epoch))

    def _check_peer(self, node_key: bytes, now: float) -> None:
        """Raises: PeerRefused. A responder tells why; an initiator leaves without having said who it is."""
        reason = ""
        if node_key == self._own_key:
            reason = "a node does not talk to itself"
            self.own_key_epoch = None if self._handshake.peer is None else self._handshake.peer.epoch
        elif not self._allow(node_key):
            reason = "not allowed here"
        if reason:
            if not self._handshake.initiator:
                self._say_goodbye(reason, now)
            raise PeerRefused(reason)

    def _secured_received(self, datagram: bytes, now: float) -> None:
        if self._opener is None or datagram[0] != self._opener.link_tag:
            return
        highest = self._replay.highest
        counter, header_octets = self._opener.counter_of(datagram, highest)
        if not self._replay.is_new(counter):
            return
        payload = self._opener.open(datagram, counter, header_octets, highest)
        self._liveness.heard_at = now
        self._pacer.heard(len(datagram), now)
        self._bad_in_a_row = 0
        if self._state is PipeState.AWAIT_CONFIRMATION:
            self._handshake.confirmed(now)
            self._early = self._handshake.early_fragments()
            self._peer_known(PipeInput.SECURED, now)
            self._confirmation = datagram, now
            return
        if self._state is PipeState.UNCONFIRMED:
            self._handshake.stop()
        self._step(PipeInput.SECURED)
        assert self._sealer is not None
        try:
            frames = decode_frames(payload, self._sealer.counter, short=header_octets == SHORT_HEADER_OCTETS)
            if self._conversation is None and any(isinstance(frame, Fragment | Credit | Held) for frame in frames):
                return
            self._replay.mark(counter)
            asks = at_once = False
            for frame in frames:
                if isinstance(frame, Ack):
                    if counter > highest - ACK_LATE_MAX:
                        self._ack_received(frame, now)
                    continue
                asks = True
                at_once = at_once or isinstance(frame, Ping)
                if isinstance(frame, Goodbye):
                    self._step(PipeInput.GOODBYE, f"the peer said: {frame.reason}")
                    return
                if self._conversation is not None:
                    self._frame_received(frame, counter, self._conversation)
        except PeerCut as cut:
            self.close(str(cut), now)
            return
        except RemoteLinkError as error:
            self._say_goodbye("protocol error", now)
            self._step(PipeInput.FAULT, f"protocol error of the peer: {error}")
            return
        more_follow = len(datagram) > self._octets_max // 2
        self._arrivals.arrived(counter, now, asks=asks, at_once=at_once, more_follow=more_follow)

    def _frame_received(self, frame: Frame, counter: int, conversation: Conversation) -> None:
        """Raises: RemoteLinkError."""
        if isinstance(frame, Fragment):
            conversation.fragment_received(self._positions_received.placed(frame, counter))
            if frame.bits == WHOLE_BITS:
                self._positions_received.anchored(frame, counter, self._replay.highest)
        elif isinstance(frame, Credit):
            conversation.credit_received(frame.limit_octets)
        elif isinstance(frame, Held):
            conversation.held_received(frame)

    def _ack_received(self, ack: Ack, now: float) -> None:
        self._pacer.answered()
        assert self._sealer is not None
        for datagram in self._recovery.acknowledged(ack.ranges, ack.delay_ms / 1000, self._sealer.counter, now):
            if self._conversation is not None:
                self._conversation.fragments_acknowledged(datagram.fragments)
            self._arrivals.reported(datagram.ack_floor)
            self._positions_sent.acknowledged(datagram.counter)
        self._give_up(self._recovery.lost(now))

    def _give_up(self, datagrams: list[SentDatagram]) -> None:
        if self._conversation is not None:
            for datagram in datagrams:
                if datagram.is_copy:
                    continue
                given_back = datagram.given_back
                self._conversation.fragments_lost(
                    [sent for sent in datagram.fragments if sent.priority not in given_back]
                )
                if datagram.credit:
                    self._conversation.credit_lost()
                if datagram.held:
                    self._conversation.held_lost(datagram.held)

    # Sending

    def _has_data(self) -> bool:
        if self._liveness.ping_due or self._copies.next is not None:
            return True
        return self._has_news()

    def _has_news(self) -> bool:
        """Whether the conversation has something that is not on its way."""
        conversation = self._conversation
        classes = self._voice.sendable
        return (
            conversation is not None
            and bool(classes)
            and (
                conversation.has_to_tell or conversation.credit_due() is not None or conversation.has_fragments(classes)
            )
        )

    def _sends_on(self) -> bool:
        """In turns: whether another burst is asked and answered before anything is overdue."""
        return self._timers.burst_datagrams > 0 and self._recovery.may_send and self._has_data()

    def _next_datagram(self, now: float) -> bytes | None:
        assert self._sealer is not None
        if not self._voice.may_speak(now):
            return None
        if self._sealer.counter >= COUNTER_MAX:
            self._step(PipeInput.FAULT, "all counters are used")
            return None
        if (
            self._sealer.counter - self._recovery.highest_acknowledged > UNHEARD_MAX
            and not self._recovery.in_flight_octets
        ):
            self._liveness.ping_due = True
        room = self._room()
        due_at = self._arrivals.due_at
        has_data = self._recovery.may_send and now >= self._pacer.send_at and self._has_data()
        ack = b""
        ack_floor = -1
        if due_at is not None and (now >= due_at or has_data):
            ack_floor = self._arrivals.highest
            ranges, delay_ms = self._arrivals.report(now)
            if ranges:
                ack = encode_ack(ranges, delay_ms, room)
        if ack and (not has_data or room - len(ack) < COMPANY_OCTETS_LEAST):
            return self._seal(ack, now)
        if not has_data:
            return None
        if not self._liveness.ping_due and not self._has_news() and (copied := self._copies.next) is not None:
            return self._copy_datagram(copied, ack, ack_floor, room - len(ack), now)
        return self._data_datagram(ack, ack_floor, room - len(ack), now)

    def _data_datagram(self, ack: bytes, ack_floor: int, room: int, now: float) -> bytes:
        frames = bytearray(ack)
        turns = self._timers.burst_datagrams > 0
        ping_due, self._liveness.ping_due = self._liveness.ping_due or self._recovery.asks_next, False
        room -= ping_due or turns
        octets = b""
        fragments: list[FragmentSent] = []
        copies_follow = False
        held: tuple[Priority, ...] = ()
        credit: int | None = None
        if self._conversation is not None and self._voice.sendable:
            if self._conversation.has_to_tell:
                told, held = self._conversation.tell_held(room)
                room -= len(told)
                frames += told
            credit = self._conversation.credit_due()
            if credit is not None:
                limit = encode_credit(credit)
                if len(limit) > room:
                    credit = None
                else:
                    room -= len(limit)
                    frames += limit
                    self._conversation.credit_sent(credit)
            if not (turns and ping_due and self._recovery.window_is_full):
                octets, fragments = self._conversation.take_fragments(
                    room,
                    self._voice.sendable,
                    self._positions(),
                )
            more = self._conversation.has_fragments(self._voice.sendable)
            if fragments and not more:
                more = copies_follow = self._copies.pay(len(octets), now)
            ping_due = ping_due or self._asks(len(frames), len(octets), room, more=more)
            frames += octets
        datagram = self._dispatch(
            frames, fragments, now, asks=ping_due, ack_floor=ack_floor, told_credit=credit is not None, held=held
        )
        if copies_follow:
            self._copies.begin()
        return datagram

    def _asks(self, octets_before: int, octets: int, room: int, *, more: bool) -> bool:
        """Whether a datagram asks for an answer at once; `more`: it is not the last one for now."""
        if self._timers.burst_datagrams:
            return self._pacer.ends_burst if more else octets + octets_before > self._octets_max // 2 - 16
        return not more and octets < room and self._recovery.asks_last

    def _copy_datagram(self, copied: SentDatagram, ack: bytes, ack_floor: int, room: int, now: float) -> bytes | None:
        """What is on its way already, once more."""
        assert self._conversation is not None
        self._copies.sent()
        room -= copied.asks or self._timers.burst_datagrams > 0
        octets, fragments = self._conversation.take_again(copied.fragments, room, self._positions())
        if not fragments:
            return self._seal(ack, now) if ack else None
        asks = copied.asks or self._asks(len(ack), len(octets), room, more=self._copies.next is not None)
        return self._dispatch(bytearray(ack + octets), fragments, now, asks=asks, ack_floor=ack_floor, is_copy=True)

    def _dispatch(
        self,
        frames: bytearray,
        fragments: list[FragmentSent],
        now: float,
        *,
        asks: bool,
        ack_floor: int,
        told_credit: bool = False,
        held: tuple[Priority, ...] = (),
        is_copy: bool = False,
    ) -> bytes:
        """A datagram that wants an acknowledgement; with `asks`, at once."""
        if asks:
            frames.insert(0, PING)
        assert self._sealer is not None
        counter = self._sealer.counter
        datagram = self._seal(bytes(frames), now)
        leaves_at = self._pacer.free_at if self._pacer.paces else now
        if asks and self._timers.burst_datagrams:
            self._pacer.listen(leaves_at + min(self._recovery.trip.timeout, self._timers.initial_rtt_s))
        octets = 0 if is_copy else len(datagram)
        self._recovery.sent(
            SentDatagram(counter, leaves_at, octets, fragments, told_credit, ack_floor, asks, held, is_copy=is_copy)
        )
        return datagram

    def _positions(self) -> PositionsSent:
        """Those of the datagram that is being made."""
        assert self._sealer is not None
        return self._positions_sent.begun(self._sealer, self._recovery.highest_acknowledged)

    def _room(self) -> int:
        """Octets for frames in the next datagram."""
        assert self._sealer is not None
        return self._sealer.room(self._recovery.highest_acknowledged)

    def _seal(self, frames: bytes, now: float) -> bytes:
        assert self._sealer is not None
        acknowledged = self._recovery.highest_acknowledged
        self._sealer.rekey_if_due(acknowledged, now)
        datagram = self._sealer.seal(frames, acknowledged)
        self._pacer.sent(len(datagram), now)
        return datagram

    def _say_goodbye(self, reason: str, now: float) -> None:
        if self._sealer is not None and self._state is not PipeState.DEAD:
            self._last_words = [self._seal(encode_goodbye(reason, self._room()), now)]

    # The end

    def _step(self, happened: PipeInput, reason: str = "") -> None:
        after = TRANSITIONS.get((self._state, happened))
        if after is None:
            return
        self._state = after
        if after is PipeState.DEAD:
            self.detach()
            self._handshake.stop()
            self._events.append(PipeDead(reason))
