"""`lara serve`: serves a policy to evaluation harnesses, or to LeRobot's clients on robots."""

import argparse
import asyncio
import logging

from lerobot.utils.constants import OBS_STATE
from lerobot.utils.import_utils import require_package

logger = logging.getLogger(__name__)

PORTS = {"vla-eval": 8000, "lerobot": 8080}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara serve`."""
    parser.add_argument("checkpoint", nargs="?", help="folder or Hub name; not with --protocol=lerobot")
    parser.add_argument(
        "--protocol",
        choices=list(PORTS),
        default="vla-eval",
        help="vla-eval, for harnesses and lara benchmark; or lerobot, LeRobot's asynchronous inference, whose clients "
        "name the checkpoint (default: vla-eval)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; neither protocol has authentication (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument("--port", type=int, help="port (default: 8000, or 8080 with --protocol=lerobot)")
    parser.add_argument("--device", help="cpu or cuda (default: the checkpoint's)")
    parser.add_argument(
        "--image-keys",
        nargs="+",
        metavar="CAMERA=NAME",
        help="the client's camera and the policy's (default: equal names, or the only camera of both)",
    )
    parser.add_argument("--state-key", default=OBS_STATE, help=f"the policy's state (default: {OBS_STATE})")
    parser.add_argument(
        "--robot",
        default="as_is",
        help="conversion of states and actions: as_is, simpler_widowx or simpler_google (default: as_is)",
    )
    parser.add_argument(
        "--seed", type=int, help="start every episode from this seed, so that its chunks can be repeated"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        help="most clients whose chunks are computed together (default: 1)",
    )
    parser.add_argument("--max-clients", type=int, default=64, help="most clients at a time (default: 64)")
    parser.add_argument(
        "--fps", type=int, default=30, help="control steps per second, with --protocol=lerobot (default: 30)"
    )


def run(args: argparse.Namespace) -> int:
    """Serves until Ctrl+C."""
    port = PORTS[args.protocol] if args.port is None else args.port
    if not 0 <= port < 2**16:
        raise ValueError(f"`port` is {port}; it must be from 0 to 65535.")
    if args.protocol == "lerobot":
        from lerobot_lara.serving.async_server import serve_for_robots

        if args.checkpoint is not None:
            raise ValueError(
                f"`checkpoint` is {args.checkpoint!r}; with --protocol=lerobot the client names it "
                "(--pretrained_name_or_path). Leave it out."
            )
        serve_for_robots(host=args.host, port=port, fps=args.fps)
        return 0
    if args.checkpoint is None:
        raise ValueError("`checkpoint` is missing. Name the policy to serve.")
    require_package("vla-eval", extra="serve", import_name="vla_eval")
    from lerobot_lara.serving.model_server import PolicyModelServer
    from lerobot_lara.serving.websocket import serve_policy

    server = PolicyModelServer(
        args.checkpoint,
        device=args.device,
        image_keys=_image_keys(args.image_keys),
        state_key=args.state_key,
        robot=args.robot,
        seed=args.seed,
        max_batch_size=args.batch_size,
    )
    logger.info("Serving %s", server.describe())

    def started(port: int) -> None:
        logger.info("Listening at ws://%s:%d (Ctrl+C ends it)", args.host, port)

    asyncio.run(
        serve_policy(server, host=args.host, port=port, max_clients=args.max_clients, started=started)
    )
    return 0


def _image_keys(pairs: list[str] | None) -> dict[str, str] | None:
    if pairs is None:
        return None
    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise ValueError(f"`image_keys` has {bad[0]!r}; it must be such as CAMERA=NAME.")
    return dict(pair.split("=", 1) for pair in pairs)
