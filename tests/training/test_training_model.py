"""The transformer and its loss."""

import math

import pytest
import torch

from optdsl.training.loop import validation_loss
from optdsl.training.model import CharacterTransformer, window_loss

VOCABULARY, BLOCK = 11, 6


@pytest.fixture
def model() -> CharacterTransformer:
    return CharacterTransformer(VOCABULARY, BLOCK, layers=2, width=8, heads=2, seed=3)


@pytest.fixture
def windows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(VOCABULARY, (7, BLOCK + 1), generator=generator)


def test_a_later_character_does_not_change_earlier_logits(
    model: CharacterTransformer, windows: torch.Tensor
) -> None:
    for parameter in model.parameters():  # enlarge the weights, so that a leak would show
        parameter.data *= 10
    original = windows[:, :BLOCK]
    before = model(original)
    assert before.shape == (7, BLOCK, VOCABULARY)
    for position in range(BLOCK):
        changed = original.clone()
        changed[:, position] = (changed[:, position] + 1) % VOCABULARY
        after = model(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position])
        for later in range(position, BLOCK):  # and the context does matter
            assert not torch.allclose(after[:, later], before[:, later], atol=1e-6)


def test_positions_matter(model: CharacterTransformer) -> None:
    logits = model(torch.zeros(1, BLOCK, dtype=torch.int64))
    assert not torch.allclose(logits[0, 0], logits[0, 1], atol=1e-6)


def test_a_shorter_input_gives_the_same_logits(
    model: CharacterTransformer, windows: torch.Tensor
) -> None:
    torch.testing.assert_close(model(windows[:, :3]), model(windows[:, :BLOCK])[:, :3])


def test_initial_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        model = CharacterTransformer(VOCABULARY, BLOCK, 2, 8, 2, seed)
        return [parameter.detach() for parameter in model.parameters()]

    first = weights(1)
    torch.rand(100)
    second = weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], weights(2)[0])


def test_the_initial_prediction_is_nearly_uniform(
    model: CharacterTransformer, windows: torch.Tensor
) -> None:
    assert window_loss(model, windows).item() == pytest.approx(math.log(VOCABULARY), abs=0.05)


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_validation_loss_is_the_mean_over_all_characters(
    model: CharacterTransformer, windows: torch.Tensor, batch: int
) -> None:
    losses = []
    for window in windows:
        for end in range(1, BLOCK + 1):
            logits = model(window[None, :end])[0, -1].detach().double()
            losses.append(float(torch.logsumexp(logits, 0) - logits[window[end]]))
    expected = sum(losses) / len(losses)
    assert validation_loss(model, windows, batch) == pytest.approx(expected, abs=1e-5)


def test_evaluation_keeps_no_graph_and_no_gradients(
    model: CharacterTransformer, windows: torch.Tensor
) -> None:
    validation_loss(model, windows, 4)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
