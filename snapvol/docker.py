"""Docker's own API, for what only Docker keeps of a volume: its labels, and the options it was made with (T37)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import aiodocker

log = logging.getLogger(__name__)

LIMIT = 2.0  # seconds for an answer
CREATE_LIMIT = 10.0  # seconds: Docker then asks our own plugin

Answer = TypeVar("Answer")


class Docker:
    """The Docker Engine of this machine. Its absence is never an error; what it does not tell is None.

    Every method blocks, and must not be called from a thread with a running event loop.

    Args:
        socket: its API socket; empty for none.
        driver: the name by which Docker knows this plugin.
    """

    def __init__(self, socket: str, driver: str) -> None:
        self._socket = socket
        self.driver = driver

    def version(self) -> str | None:
        """Return the Engine's version; None where it does not answer."""

        async def ask(docker: aiodocker.Docker) -> str:
            return str((await docker.version())["Version"])

        return self._ask(ask, LIMIT)

    def labels(self, volume: str) -> dict[str, str] | None:
        """Return the labels that Docker has for a volume of ours; None where it does not know the volume, or us."""

        async def ask(docker: aiodocker.Docker) -> dict[str, str] | None:
            found = await _shown(docker, volume)
            if found.get("Driver") != self.driver:
                return None
            # A volume that Docker merely found by asking us has null labels: nobody set them, nothing is known.
            labels = found.get("Labels")
            return None if labels is None else {str(key): str(value) for key, value in labels.items()}

        return self._ask(ask, LIMIT)

    def adopt(self, volume: str, labels: Mapping[str, str], options: Mapping[str, str]) -> bool | None:
        """Make Docker take up a volume of ours with labels and options that it does not have.

        Docker asks the plugin, finds the volume there, and keeps both. It has them from nobody but the creator, and
        Compose refuses a volume whose options are not those of its file.

        Returns:
            True where it has the labels now, False where it knew the volume with others, None where it does not answer.
        """

        async def ask(docker: aiodocker.Docker) -> bool:
            volumes: Any = docker.volumes  # untyped there
            wanted = {"Name": volume, "Driver": self.driver, "Labels": dict(labels), "DriverOpts": dict(options)}
            await volumes.create(wanted)
            found = await _shown(docker, volume)
            return (found.get("Labels") or {}) == dict(labels)

        return self._ask(ask, CREATE_LIMIT)

    def _ask(self, question: Callable[[aiodocker.Docker], Awaitable[Answer]], seconds: float) -> Answer | None:
        if not self._socket or not Path(self._socket).is_socket():
            return None
        import aiodocker
        import aiohttp

        async def asked() -> Answer:
            async with aiodocker.Docker(url=f"unix://{self._socket}") as docker:
                return await question(docker)

        async def limited() -> Answer:
            return await asyncio.wait_for(asked(), seconds)

        try:
            return asyncio.run(limited())
        except aiodocker.exceptions.DockerError as error:
            if error.status != 404:
                log.info("docker: %s", error.message)
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError, KeyError) as error:
            log.info("docker does not answer at %s: %s", self._socket, str(error) or type(error).__name__)
        return None


async def _shown(docker: aiodocker.Docker, volume: str) -> dict[str, Any]:
    volumes: Any = docker.volumes  # untyped there
    found: dict[str, Any] = await (await volumes.get(volume)).show()
    return found
