import pytest
import torch
from support.encoders import image_encoder
from torch import nn

from lerobot_lara.dit.conditioning import InstructionEncoder, ObservationEncoder


class CountingTextEncoder(nn.Module):
    """A fixed embedding per token id; counts the rows it was asked for."""

    width = 6

    def __init__(self):
        super().__init__()
        self.num_rows = 0

    def forward(self, input_ids, attention_mask):
        self.num_rows += len(input_ids)
        return torch.sin(input_ids[..., None] * torch.arange(1.0, 7.0))


def make(num_cameras=2, text=True):
    torch.manual_seed(0)
    return ObservationEncoder(
        image_encoder=image_encoder("cnn", image_size=32, width=16),
        num_cameras=num_cameras,
        width=8,
        text_encoder=CountingTextEncoder() if text else None,
    ).eval()


IDS = torch.tensor([[1, 2, 0], [1, 2, 3]])
MASK = IDS > 0


def test_tokens_of_every_camera_and_the_instruction():
    context, mask = make()([torch.rand(2, 3, 32, 32), torch.rand(2, 3, 48, 40)], IDS, MASK)
    assert context.shape == (2, 2 * 4 + 1, 8) and mask.all()


def test_cameras_are_told_apart():
    encoder, images = make(text=False), [torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)]
    context = encoder(images)[0]
    swapped = encoder(images[::-1])[0]
    assert not torch.allclose(context, swapped.roll(4, dims=1), atol=1e-4)


def test_instruction_ignores_padding_and_is_encoded_once():
    text_encoder = CountingTextEncoder()
    encoder = InstructionEncoder(text_encoder, 8).eval()
    first = encoder(IDS, MASK)
    assert text_encoder.num_rows == 2
    longer = torch.nn.functional.pad(IDS, (0, 4))
    again = encoder(longer, longer > 0)
    torch.testing.assert_close(first, again)
    assert text_encoder.num_rows == 2, "known instructions must not be encoded again"
    assert not torch.allclose(first[0], first[1])


def test_memory_is_bounded():
    encoder = InstructionEncoder(CountingTextEncoder(), 8)
    encoder.memory.max_remembered = 3
    for i in range(1, 9):
        encoder(torch.tensor([[i]]), torch.tensor([[True]]))
    assert len(encoder.memory._remembered) == 3


def test_untokenized_batch_is_refused():
    with pytest.raises(ValueError, match=r"text_encoder.*preprocessor"):
        make()([torch.rand(2, 3, 32, 32)] * 2)
