import errno
import itertools
import json

import av
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.videos import load, write_clip

from lerobot_lara.cli import main
from lerobot_lara.data.video import assemble
from lerobot_lara.data.video.dataset import ERRORS_PATH
from lerobot_lara.data.video.import_video import import_video


@pytest.fixture
def folder(tmp_path):
    """Three small clips that share rate and size."""
    for name, num_frames in (("a", 4), ("b", 5), ("c", 6)):
        write_clip(tmp_path / "clips" / f"{name}.mp4", num_frames=num_frames)
    return tmp_path / "clips"


def run_import(folder, **options):
    return import_video(folder, "local/clips", root=folder.parent / "dataset", **options)


def assert_complete(root, lengths):
    """Rows, frames in the videos and lengths are those of whole clips."""
    dataset = load(root)
    assert [episode["length"] for episode in dataset.meta.episodes] == lengths
    assert sum(pq.read_metadata(path).num_rows for path in root.glob("data/*/*.parquet")) == sum(lengths)
    for path in root.rglob("*.mp4"):
        with av.open(str(path)) as container:
            assert len(list(container.decode(video=0))) == sum(lengths)
    assert all(dataset[index] for index in range(sum(lengths)))


class TestOneWriteError:
    @pytest.fixture(params=["nothing written", "cut off"])
    def failing_frame(self, request, monkeypatch):
        """The sixth image, the second of clip b, cannot be written."""
        number, save = itertools.count(1), Image.Image.save

        def failing(image, path, **options):
            save(image, path, **options)
            if next(number) == 6:
                if request.param == "cut off":
                    path.write_bytes(path.read_bytes()[:-4])
                else:
                    path.unlink()
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(Image.Image, "save", failing)
        return monkeypatch

    @pytest.mark.parametrize("storage", ["image", "video"])
    def test_of_a_frame_fails_the_clip_by_its_name(self, folder, failing_frame, storage):
        result = run_import(folder, storage=storage)
        assert list(result.failures) == ["b.mp4"]
        # Images are written by several threads, in no certain order.
        assert result.failures["b.mp4"] in [f"frame {number} could not be written" for number in range(5)]
        assert json.loads((result.root / ERRORS_PATH).read_text()) == result.failures
        assert_complete(result.root, [4, 6])
        failing_frame.undo()
        assert run_import(folder, storage=storage, resume=True).imported == ["b.mp4"]
        assert load(result.root).num_frames == 15

    def test_of_its_table_fails_the_clip_by_its_name(self, folder, monkeypatch):
        number, write = itertools.count(1), pq.ParquetWriter.write_table

        def failing(writer, table, *args, **options):
            if next(number) == 5:  # each clip has tables of its task, its rows and its episode
                raise OSError(errno.EIO, "Input/output error")
            write(writer, table, *args, **options)

        monkeypatch.setattr(pq.ParquetWriter, "write_table", failing)
        result = run_import(folder)
        assert result.failures == {"b.mp4": "it cannot be stored: Input/output error"}
        assert_complete(result.root, [4, 6])

    @pytest.mark.parametrize("lost", ["encoded", "joined"])
    def test_of_a_video_is_counted(self, folder, monkeypatch, lost):
        if lost == "encoded":
            from lerobot.datasets import dataset_writer

            encode, number = dataset_writer.encode_video_frames, itertools.count(1)

            def encode_fewer(images, *args, **options):
                if next(number) == 2:
                    sorted(images.iterdir())[2].unlink()
                return encode(images, *args, **options)

            monkeypatch.setattr(dataset_writer, "encode_video_frames", encode_fewer)
            result = run_import(folder)
            assert result.failures == {"b.mp4": "only 4 frames in its video of 5 were stored"}
            assert_complete(result.root, [4, 6])
        else:
            join = assemble.concatenate_video_files
            monkeypatch.setattr(
                assemble, "concatenate_video_files", lambda paths, output: join(paths[:-1], output)
            )
            with pytest.raises(ValueError, match=r"file-000\.mp4 cannot be written: only 9 of 15 frames"):
                run_import(folder)
            monkeypatch.undo()
            assert_complete(run_import(folder, resume=True).root, [4, 5, 6])


def test_a_full_disk_ends_the_import_which_can_be_resumed(folder, monkeypatch, capsys):
    number, write = itertools.count(1), pq.ParquetWriter.write_table

    def failing(writer, table, *args, **options):
        if next(number) >= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, table, *args, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", failing)
    command = ["import-video", str(folder), "local/clips", f"--root={folder.parent / 'dataset'}"]
    assert main(command) != 0
    assert (
        "cannot be written: No space left on device. Make sure that there is space" in capsys.readouterr().err
    )
    monkeypatch.undo()
    assert main([*command, "--resume"]) == 0
    assert_complete(folder.parent / "dataset", [4, 5, 6])
