"""Quantizers: nearest codes, the two loss terms, gradients, masks, restarts, equal codebooks on all ranks."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lerobot_lara.lam.quantizer import EMAVectorQuantizer, FSQuantizer, GradientVQ, Quantizer, build_quantizer

EMA = {"decay": 0.9, "kmeans_init": False, "restart_threshold": 0.0, "commitment_weight": 0.25}


def gradient_vq(**weights: float) -> GradientVQ:
    vq = GradientVQ(
        codebook_size=3, latent_dim=2, **({"commitment_weight": 1.0, "codebook_weight": 0.25} | weights)
    )
    vq.codebook.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    return vq


def test_gradient_vq_in_closed_form() -> None:
    vq = gradient_vq()
    latent = torch.tensor([[[0.8, 0.1], [0.1, 1.5]]], requires_grad=True)
    quantized, indices, loss = vq(latent)
    assert indices.tolist() == [[1, 2]]
    torch.testing.assert_close(quantized, torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
    assert torch.equal(vq.indices_to_latent(indices), quantized.detach().round())
    squared = (0.2**2 + 0.1**2 + 0.1**2 + 0.5**2) / 4
    assert loss.item() == pytest.approx(1.25 * squared)

    (quantized.sum() + loss).backward()
    # Straight through: 1 from the sum; from the loss only the commitment term reaches the latent ...
    residual = torch.tensor([[[-0.2, 0.1], [0.1, -0.5]]])
    torch.testing.assert_close(latent.grad, 1 + 1.0 * 2 / 4 * residual)
    # ... and only the codebook term the codes.
    expected = torch.stack([torch.zeros(2), -residual[0, 0], -residual[0, 1]]) * 0.25 * 2 / 4
    torch.testing.assert_close(vq.codebook.weight.grad, expected)


@pytest.mark.parametrize("kind", ["gradient", "ema"])
def test_loss_and_codebook_ignore_invalid_pairs(kind: str) -> None:
    torch.manual_seed(0)
    latent = torch.randn(6, 2, 2)
    valid = torch.tensor([True, True, False, True, False, True])
    outcomes = []
    for batch, mask in ((latent, valid), (latent[valid], None)):
        torch.manual_seed(1)
        vq = gradient_vq() if kind == "gradient" else EMAVectorQuantizer(codebook_size=3, latent_dim=2, **EMA)
        _, _, loss = vq.train()(batch.clone().requires_grad_(), mask, update=True)
        outcomes.append((loss, vq.indices_to_latent(torch.arange(3)[None])))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_ema_codebook_moves_towards_its_latents_only_in_training() -> None:
    vq = EMAVectorQuantizer(codebook_size=2, latent_dim=2, **EMA)
    vq.vq.codebook = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    vq.vq._codebook.embed_avg.copy_(vq.vq._codebook.embed)
    latent = torch.tensor([2.0, 2.0]).expand(4, 2, 2)

    def first_code() -> Tensor:
        return vq.indices_to_latent(torch.tensor([[0]]))[0, 0].clone()

    for training, update in ((False, False), (True, False)):
        vq.train(training)(latent, update=update)
        assert first_code().tolist() == [1.0, 1.0]
    _, indices, loss = vq.train()(latent, update=True)
    assert torch.equal(indices, torch.zeros(4, 2, dtype=torch.long))
    assert loss.item() == pytest.approx(0.25 * 1.0)
    assert 1.2 < first_code()[0] < 2.0
    vq.eval()(latent)
    assert torch.equal(vq.eval()(latent)[0], first_code().expand(4, 2, 2))


def test_dead_codes_are_restarted_from_the_batch() -> None:
    torch.manual_seed(0)
    fields = EMA | {"restart_threshold": 1.0, "decay": 0.5}
    restarting = EMAVectorQuantizer(codebook_size=16, latent_dim=2, **fields).train()
    fixed = EMAVectorQuantizer(
        codebook_size=16, latent_dim=2, **(fields | {"restart_threshold": 0.0})
    ).train()
    latent = 5 + torch.randn(64, 2, 2)
    used = {}
    for name, vq in (("restarting", restarting), ("fixed", fixed)):
        for _ in range(8):
            _, indices, _ = vq(latent, update=True)
        used[name] = len(indices.unique())
    assert used["restarting"] >= 12 > used["fixed"]


def test_kmeans_starts_from_the_first_batch_and_refuses_to_guess_before() -> None:
    torch.manual_seed(0)
    vq = EMAVectorQuantizer(codebook_size=4, latent_dim=2, **(EMA | {"kmeans_init": True}))
    centers = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]])
    latent = (centers[torch.arange(64) % 4] + 0.1 * torch.randn(64, 2)).view(32, 2, 2)
    with pytest.raises(ValueError, match="`codebook_kmeans_init` is on and the codebook is still empty"):
        vq.eval()(latent)
    vq.train()(latent, update=True)
    _, indices, loss = vq(latent, update=False)
    assert len(indices.unique()) == 4 and loss < 0.1


def test_no_valid_pair_is_no_loss_and_no_update() -> None:
    for vq in (gradient_vq(), EMAVectorQuantizer(codebook_size=3, latent_dim=2, **EMA)):
        before = vq.train().indices_to_latent(torch.arange(3)[None]).clone()
        latent = torch.randn(4, 2, 2, requires_grad=True)
        _, _, loss = vq(latent, torch.zeros(4, dtype=torch.bool), update=True)
        loss.backward()
        assert loss.item() == 0 and latent.grad.abs().sum() == 0
        assert torch.equal(vq.indices_to_latent(torch.arange(3)[None]), before)


@pytest.mark.parametrize("kind", ["fsq", "gradient", "ema"])
def test_codes_and_latents_are_inverse(kind: str) -> None:
    torch.manual_seed(0)
    vq = build_quantizer(
        "fsq" if kind == "fsq" else "vq",
        latent_dim=4,
        noise=0.0,
        codebook_size=16,
        codebook_update=kind if kind != "fsq" else "ema",
        codebook_decay=0.9,
        codebook_kmeans_init=False,
        codebook_restart_threshold=0.0,
        commitment_weight=1.0,
        codebook_weight=1.0,
        fsq_levels=(5, 4, 3),
    ).eval()
    assert vq.codebook_size == (60 if kind == "fsq" else 16)
    quantized, indices, _ = vq(torch.randn(8, 3, 4))
    assert indices.shape == (8, 3) and indices.dtype == torch.int64
    assert indices.min() >= 0 and indices.max() < vq.codebook_size
    torch.testing.assert_close(vq.indices_to_latent(indices), quantized)
    assert len(indices.unique()) > 3


def test_fsq_passes_gradients() -> None:
    latent = torch.randn(8, 3, 4, requires_grad=True)
    quantized, _, loss = FSQuantizer(levels=(5, 4, 3), latent_dim=4)(latent)
    quantized.square().sum().backward()
    assert loss is None and latent.grad.abs().sum() > 0


def test_continuous_latents_get_noise_in_training_steps_only() -> None:
    latent = torch.zeros(1000, 2, 4)
    noise, indices, loss = Quantizer(noise=0.3)(latent, update=True)
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    assert indices is None and loss is None
    assert Quantizer(noise=0.3)(latent)[0] is latent
    with pytest.raises(ValueError, match='`quantizer` is "none"'):
        Quantizer(noise=0.0).indices_to_latent(torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize("kind", ["gradient", "ema", "fsq"])
def test_codebooks_stay_in_full_precision_under_autocast(kind: str) -> None:
    """Near 1, bfloat16 cannot tell codes apart that differ by 0.003."""
    codes = torch.tensor([[1.0, 1.0], [1.003, 1.0]])
    if kind == "fsq":
        vq: Quantizer = FSQuantizer(levels=(5, 5), latent_dim=2)
    elif kind == "gradient":
        vq = GradientVQ(codebook_size=2, latent_dim=2, commitment_weight=1.0, codebook_weight=1.0)
        vq.codebook.weight.data = codes
    else:
        vq = EMAVectorQuantizer(codebook_size=2, latent_dim=2, **EMA)
        vq.vq.codebook = codes
    latent = codes[None] if kind != "fsq" else torch.randn(1, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        quantized, indices, _ = vq.eval()(latent)
    assert quantized.dtype == torch.float32
    if kind != "fsq":
        assert indices.tolist() == [[0, 1]]


def test_codebooks_stay_equal_on_two_processes(tmp_path: Path) -> None:
    worker = Path(__file__).parents[1] / "support" / "codebook_worker.py"
    processes = [subprocess.Popen([sys.executable, worker, str(rank), tmp_path]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key
    spread = first["vq._codebook.embed"].std(dim=-2).max().item()
    assert math.isfinite(spread) and spread > 0.5  # codes cover both ranks' data
