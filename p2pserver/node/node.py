"""The node: builds the parts and joins them. The same with real parts and with simulated ones."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from p2pserver.client_api.app import ClientApi, ClientApiConfig
from p2pserver.client_api.app_service_questions import ask_before_answering
from p2pserver.client_api.join_progress import JoinProgress
from p2pserver.config import Config
from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.federation.media_assembly import MediaPolicy
from p2pserver.http_api.asgi import ASGIApp
from p2pserver.http_api.routing import Route
from p2pserver.meg.clock import HybridClock
from p2pserver.node.airtime import AirtimeKeeper
from p2pserver.node.ephemera import Ephemera
from p2pserver.node.identity import Identity
from p2pserver.node.media_serving import MediaServing
from p2pserver.node.media_transfers import MediaTransfers
from p2pserver.node.mesh import Mesh
from p2pserver.node.peer_events import JoinUnderWay, PeerEvent
from p2pserver.node.timers import NodeTimers
from p2pserver.rooms.app_services import AppServices, is_to_come
from p2pserver.rooms.media_library import MediaLibrary, MediaLimits
from p2pserver.rooms.s2s import s2s_handlers
from p2pserver.rooms.s2s_media import Tickets, media_handlers
from p2pserver.rooms.service import Rooms
from p2pserver.store.accounts import user_exists
from p2pserver.store.database import Database
from p2pserver.store.media_files import MediaFiles
from p2pserver.store.tx import Tx
from transports.contract import Transport

BUILD_MS = 1_784_000_000_000
"""When this version was made, about: a wall clock that reads less is not set."""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _join_event(progress: JoinProgress) -> PeerEvent:
    return JoinUnderWay(progress.room_id, progress.server, progress.percent, progress.octets_all, progress.seconds_left)


class Node:
    """Rooms, client API and mesh over one database. HTTP is served by `node.run`, which has sockets."""

    def __init__(
        self,
        config: Config,
        *,
        identity: Identity,
        database: Database,
        transports: Sequence[Transport],
        wall_ms: Callable[[], int] = _now_ms,
        monotonic_s: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        tell: Callable[[PeerEvent], None] | None = None,
        timers: NodeTimers | None = None,
        media_files: MediaFiles | None = None,
        app_services: AppServices | None = None,
    ) -> None:
        """`tell` hears of nodes that come and go, and of joins that take long. `media_files`: by default beside the
        database."""
        rng = rng or random.Random(random_bytes(16))
        services = app_services or AppServices()
        self.config = config
        self.identity = identity
        self.database = database
        self.clock = HybridClock(build_ms=BUILD_MS, trusted=wall_ms() >= BUILD_MS)
        self._wall_ms = wall_ms
        self.rooms = Rooms(
            signer=identity.signer,
            keys=SelfCertifyingKeys(),
            clock=self.clock,
            wall_ms=wall_ms,
            rng=rng,
            user_exists=lambda tx, user_id: user_exists(tx, user_id) or is_to_come(tx, services, user_id),
        )
        self.media = MediaLibrary(
            database=database,
            files=media_files or MediaFiles(config.media_path),
            signer=identity.signer,
            limits=MediaLimits(
                upload_octets=config.media_upload_max,
                user_octets=config.media_per_user,
                own_octets=config.media_own,
                cache_octets=config.media_cache,
                needs_token=not config.legacy_media,
            ),
            wall_ms=wall_ms,
            random_bytes=random_bytes,
        )
        tickets = Tickets(identity.seed)
        self.mesh = Mesh(
            identity=identity,
            database=database,
            airtime=AirtimeKeeper(database, clock=monotonic_s, wall_ms=wall_ms, build_ms=BUILD_MS),
            rooms=self.rooms,
            handlers={
                **s2s_handlers(self.rooms, private=config.private),
                **media_handlers(
                    identity.server_name, tickets=tickets, wall_ms=wall_ms, offer_thumbnail=self._offer_thumbnail
                ),
            },
            transports=transports,
            wall_ms=wall_ms,
            monotonic_s=monotonic_s,
            rng=rng,
            random_bytes=random_bytes,
            neighbor_clock=self._neighbor_clock,
            tell=tell or (lambda event: None),
            timers=timers,
            media=MediaServing(database=database, files=self.media.files, tickets=tickets),
        )
        self.media_transfers = MediaTransfers(
            database=database,
            library=self.media,
            mesh=self.mesh,
            keys=SelfCertifyingKeys(),
            policy=MediaPolicy(seconds_max=config.media_slow_seconds, slow_types=config.media_slow_types),
            wall_ms=wall_ms,
            clock=monotonic_s,
            tell=tell or (lambda event: None),
            look_s=(timers or NodeTimers()).media_s,
        )
        self.client_api = ClientApi(
            database=database,
            rooms=self.rooms,
            remote=self.mesh,
            media=self.media,
            remote_media=self.media_transfers,
            config=ClientApiConfig(
                registration=config.registration,
                registration_token=config.registration_token,
                rate_limits=config.rate_limits,
                default_room_version=config.default_room_version,
                private=config.private,
                support=config.support,
                url_previews=config.url_previews,
            ),
            wall_ms=wall_ms,
            monotonic_s=monotonic_s,
            random_bytes=random_bytes,
            app_services=services,
            tell_join=lambda progress: tell(_join_event(progress)) if tell is not None else None,
        )
        self.mesh.exchange.before_answering = partial(ask_before_answering, self.client_api)
        self.mesh.attend(
            Ephemera(
                database=database,
                server_name=self.rooms.server_name,
                live=self.client_api.live,
                typing=self.client_api.typing,
                presence=self.client_api.presence,
                clock=monotonic_s,
                wall_ms=wall_ms,
            )
        )

    def asgi_app(self) -> ASGIApp:
        """Both edges, for apps and for operators."""
        return self.client_api.asgi_app(later={"/_synapse/admin": self._admin_routes})

    def _admin_routes(self) -> Iterator[Route]:
        # Imported when an operator asks for the first time: most nodes have none who does.
        from p2pserver.admin_api.api import AdminApi
        from p2pserver.admin_api.endpoints import admin_routes
        from p2pserver.node.app_edge import AppEdgeOf

        api = self.client_api
        return admin_routes(
            AdminApi(
                database=api.database,
                rooms=self.rooms,
                media=self.media,
                passwords=api.passwords,
                edge=AppEdgeOf(api),
                wall_ms=api.wall_ms,
                random_bytes=api.random_bytes,
                registration_shared_secret=self.config.registration_shared_secret,
                default_room_version=self.config.default_room_version,
            )
        )

    def _offer_thumbnail(self, tx: Tx, media_id: str, size: str) -> bool:
        """Another node wants a thumbnail of an upload of this one."""
        thumbnails = self.client_api.thumbnails
        if thumbnails.is_hopeless(media_id, size):
            return False
        tx.after_commit(lambda: self.mesh.spawn(thumbnails.publish(media_id, size), name="thumbnail"))
        return True

    def _neighbor_clock(self, server_name: str, clock_ms: int) -> None:
        wall_ms = self._wall_ms()
        self.clock.trusted = wall_ms >= BUILD_MS
        self.clock.neighbor_clock(server_name, clock_ms=clock_ms, wall_ms=wall_ms)

    async def start(self) -> None:
        """Raises: OSError, if a transport cannot have what the operator asked for."""
        await self.media.start()
        await self.mesh.start()
        self.mesh.spawn(self.media_transfers.run(), name="media transfers")
        self.client_api.start()

    async def stop(self) -> None:
        """Says goodbye to peers and ends within 2 seconds. The database stays open: it is the caller's."""
        await self.client_api.close()
        await self.mesh.stop()

    async def abort(self) -> None:
        """Ends everything where it stands, as a power cut would."""
        await self.mesh.abort()
        await self.client_api.close()
