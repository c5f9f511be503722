"""What `lara serve` does."""

import ipaddress
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio
from PIL import Image

from lerobot_lara.serving.address import bind
from lerobot_lara.serving.connections import Limits, serve_clients
from lerobot_lara.serving.policy_server import PolicyServer

logger = logging.getLogger(__name__)

LARGEST_IMAGE = 4096 * 4096


def serve_checkpoint(
    checkpoint: str,
    *,
    host: str,
    port: int,
    limits: dict[str, Any],
    image_keys: Iterable[str],
    **options: Any,
) -> None:
    """Serves a policy until the process is stopped.

    Args:
        checkpoint: Folder or Hub id.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        limits: Arguments of `Limits`.
        image_keys: Texts CLIENT=POLICY.
        **options: Further arguments of `PolicyServer`.

    Raises:
        ValueError: The address cannot be used, an argument is wrong, or the policy cannot be served.
    """
    cameras, checked = parse_image_keys(image_keys), Limits(**limits)
    # Before the policy is loaded, which may take minutes.
    with bind(host, port) as bound:
        server = PolicyServer(checkpoint, image_keys=cameras, **options)
        # A small message can hold a huge image, compressed; Pillow refuses more than twice this number of pixels.
        Image.MAX_IMAGE_PIXELS = LARGEST_IMAGE // 2
        address, port = bound.getsockname()[:2]
        if not ipaddress.ip_address(address).is_loopback:
            logger.warning(
                "Anybody who reaches %s can use this policy: there is no password and no encryption.", address
            )
        logger.info("Serving %s (%s) on ws://%s:%d", checkpoint, server.policy_type, address, port)
        logger.info("%s", server.metadata())
        anyio.run(partial(serve_clients, server, bound, checked))


def parse_image_keys(pairs: Iterable[str]) -> dict[str, str]:
    """Splits texts CLIENT=POLICY.

    Raises:
        ValueError: One is of another form, or a client's camera is given twice.
    """
    keys: dict[str, str] = {}
    for pair in pairs:
        client, separator, policy = pair.partition("=")
        if not (client and separator and policy):
            raise ValueError(
                f"`image_keys` has {pair!r}; it must be CLIENT=POLICY, such as primary=observation.image."
            )
        if client in keys:
            raise ValueError(f"`image_keys` has the camera {client!r} twice. Name each once.")
        keys[client] = policy
    return keys
