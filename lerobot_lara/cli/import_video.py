"""`lara import-video`: turns a folder of video clips into an action-free LeRobotDataset."""

import argparse
import os
import sys

from lerobot_lara.data.video.dataset import ERRORS_PATH
from lerobot_lara.data.video.import_video import (
    DEFAULT_CAMERA_KEY,
    DEFAULT_CAPTION,
    ImportResult,
    import_video,
)
from lerobot_lara.data.video.segments import MIN_WINDOW_S, SEGMENT_COLUMNS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `lara import-video`."""
    parser.add_argument("folder", help="folder of clips; subfolders are searched too")
    parser.add_argument("repo_id", help="name of the dataset, user/name")
    parser.add_argument("--root", help="folder of the dataset (default: $HF_LEROBOT_HOME/<repo_id>)")
    parser.add_argument(
        "--fps",
        type=int,
        help="resample to this rate, by the times at which frames are shown (default: keep every frame, at the rate "
        "that all clips share)",
    )
    parser.add_argument(
        "--recorded-fps",
        type=int,
        help="keep every frame, as recorded at this rate, if clips do not play in real time",
    )
    parser.add_argument(
        "--size",
        help="HEIGHTxWIDTH in pixels, or one number for both (default: the size that all clips share)",
    )
    parser.add_argument(
        "--fit",
        choices=["crop", "pad"],
        default="crop",
        help="how clips of another shape are fitted: cut off at the sides, or padded with black bars (default: crop)",
    )
    parser.add_argument(
        "--segments",
        help=f"CSV or JSON file of the parts to import, with {', '.join(SEGMENT_COLUMNS)}; times are in seconds",
    )
    parser.add_argument(
        "--window-s",
        type=float,
        help=f"cut every video into windows of this many seconds; a last window shorter than {MIN_WINDOW_S:g} s is "
        "left out",
    )
    parser.add_argument(
        "--captions",
        help='JSON file {"clip.mp4": "text"} or [{"id": "clip", "label": "text"}]; extensions may be omitted',
    )
    parser.add_argument(
        "--default-caption",
        default=DEFAULT_CAPTION,
        help=f"task of a clip without a caption (default: {DEFAULT_CAPTION!r})",
    )
    parser.add_argument(
        "--storage",
        choices=["video", "image"],
        default="video",
        help="how frames are stored: small, or lossless and fast to read (default: video)",
    )
    parser.add_argument(
        "--camera-key",
        default=DEFAULT_CAMERA_KEY,
        help=f"key of the frames, observation.image or observation.images.<name> "
        f"(default: {DEFAULT_CAMERA_KEY})",
    )
    parser.add_argument("--robot-type", help="robot noted in the dataset's metadata")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="number of clips to decode at once, ahead of writing (default: 0)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with status 1 if anything could not be imported"
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    existing.add_argument(
        "--resume",
        action="store_true",
        help="continue an import that was stopped, or add the clips that an existing dataset does not hold yet",
    )


def run(args: argparse.Namespace) -> int:
    """Imports the clips and reports; returns 0, or with `--strict` 1 if something could not be imported."""
    _quiet_libraries()
    result = import_video(
        args.folder,
        args.repo_id,
        root=args.root,
        fps=args.fps,
        recorded_fps=args.recorded_fps,
        size=None if args.size is None else parse_size(args.size),
        fit=args.fit,
        segments=args.segments,
        window_s=args.window_s,
        captions=args.captions,
        default_caption=args.default_caption,
        storage=args.storage,
        camera_key=args.camera_key,
        robot_type=args.robot_type,
        num_workers=args.workers,
        overwrite=args.overwrite,
        resume=args.resume,
    )
    _report(result)
    return 1 if args.strict and result.failures else 0


def parse_size(text: str) -> tuple[int, int]:
    """Reads `HEIGHTxWIDTH`, or one number for both.

    Raises:
        ValueError: The text is anything else.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(
            f"`--size` is {text!r}; it must be HEIGHTxWIDTH in pixels, such as 256x320, or one number for both."
        )
    return int(sides[0]), int(sides[-1])


def _quiet_libraries() -> None:
    """Keeps the encoder's banner and the progress bars of `datasets` from interrupting the progress display."""
    import av
    import datasets

    os.environ.setdefault("SVT_LOG", "1")  # errors only; SVT-AV1 reads it when it opens
    av.logging.set_libav_level(av.logging.ERROR)
    datasets.disable_progress_bars()


def _report(result: ImportResult) -> None:
    """Writes what was imported and what was left out."""
    settings = result.settings
    lines = [
        f"{len(result.imported)} clips imported. {result.root} holds {result.num_episodes} episodes, "
        f"{result.num_frames} frames of {settings.height}x{settings.width} (height x width) at {settings.fps} fps.",
        _listing("clips have no caption", result.without_caption),
        _listing("captions name no clip", result.unused_captions),
        _listing("files are not videos by their extension", result.ignored),
        _listing("clips have no segment", result.without_segment),
        _listing("last windows were too short and left out", list(result.skipped)),
        f"{len(result.failures)} could not be imported; the reasons are above and in {result.root / ERRORS_PATH}."
        if result.failures
        else "",
    ]
    text = "".join(f"{line}\n" for line in lines if line)
    # Names of files need not be in the terminal's encoding, or in any.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _listing(what: str, names: list[str], shown: int = 10) -> str:
    """A count and the first names; empty without names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {what}: {', '.join(names[:shown])}{more}" if names else ""
