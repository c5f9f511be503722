"""`lara serve`: answers the observations of other programs' clients with a policy's actions."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara serve`."""
    parser.add_argument("checkpoint", help="folder or Hub id of a policy, of any type that LeRobot knows")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; the default is only reached from this machine, and nothing asks for a password",
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    parser.add_argument("--device", help="such as cpu or cuda:0; the checkpoint's by default")
    parser.add_argument(
        "--image-keys",
        nargs="+",
        default=[],
        metavar="CLIENT=POLICY",
        help="client's camera = the policy's, such as primary=observation.image, where names differ",
    )
    parser.add_argument(
        "--state-key", help="the client's key of the state; `states`, or else `state`, by default"
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="accept images of any size; fitted with black borders, never stretched",
    )
    parser.add_argument(
        "--convention",
        choices=("simpler_google", "simpler_widowx"),
        help="convert states and actions for one of SIMPLER's robots; sent as the policy has them by default",
    )
    parser.add_argument(
        "--n-action-steps", type=int, help="actions of a chunk to execute; the policy's by default"
    )
    parser.add_argument(
        "--batch-size", type=int, help="most clients per inference; 8 by default, 1 with --seed"
    )
    parser.add_argument("--seed", type=int, help="make every episode's actions reproducible")
    parser.add_argument(
        "--fps", type=float, help="control steps per second, told to clients (default: that of the data)"
    )
    parser.add_argument("--max-message-mb", type=float, default=64, help="largest message, in MiB")
    parser.add_argument("--max-clients", type=int, default=64)
    parser.add_argument(
        "--idle-timeout", type=float, default=3600, help="seconds; a silent client is disconnected"
    )


def run(args: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    from lerobot.utils.import_utils import require_package

    require_package("vla-eval", extra="serve", import_name="vla_eval")
    from lerobot_lara.serving.command import serve_checkpoint

    serve_checkpoint(
        args.checkpoint,
        host=args.host,
        port=args.port,
        limits={
            "message_bytes": int(args.max_message_mb * 1024**2),
            "clients": args.max_clients,
            "idle_seconds": args.idle_timeout,
        },
        device=args.device,
        image_keys=args.image_keys,
        state_key=args.state_key,
        resize=args.resize,
        convention=args.convention,
        n_action_steps=args.n_action_steps,
        batch_size=args.batch_size,
        seed=args.seed,
        fps=args.fps,
    )
    return 0
