"""The table of LightBench, and its tasks on a machine without a GPU; the package is not needed."""

import sys

import pytest
import torch

from benchmarks import lightbench
from benchmarks.lightbench import OnTheProcessor, Outcome, optimizer, published, table

PAGE = """\
| Benchmark | Optimizer | Cautious | Mars | Success | Runtime | Loss | Attempts | Seed | Winning |
|:----------|:----------|:---------|:-----|:--------|:--------|:-----|:---------|:-----|:--------|
| beale-trivial | AdamW | No | No | ✓ | 30.5s | 1e-8 | 19 | 0 | A(lr=0.2, betas=(0.0, 0.9), shampoo_beta=1) |
| beale-trivial | AdamW | Yes | No | ✓ | 31s | 1e-8 | 3 | 0 | A(lr=0.3, betas=(0.0, 0.9), shampoo_beta=1) |
| minimax-trivial | AdamW | No | No | ✗ | 5s | inf | 1000 | 0 | nan |
| minimax-trivial | Muon | No | No | ✓ | 5s | 0 | 7 | 0 | nan |
"""  # noqa: E501
THEIRS = {
    "beale-trivial": Outcome(True, 19, "lr=0.2, betas=(0.0, 0.9)", 30.5),
    "minimax-trivial": Outcome(False, 1000, "", 5.0),
}


def test_the_published_outcomes_are_those_of_adamw_alone():
    assert published(PAGE) == THEIRS


def test_what_was_not_found_out_does_not_count():
    solved, unknown = Outcome(True, 2), Outcome(None, 0, reason="not ready after 3 s")
    ours = {"adamw": {"beale-trivial": solved, "minimax-trivial": unknown}}
    text = table(list(THEIRS), THEIRS, ours)
    assert "adamw: 1 of 1 solved; AdamW, published: 1 of the same; alike in 1." in text
    assert "not found out: not ready after 3 s" in text


def test_rules_get_the_hyperparameters_that_they_have():
    made: list[dict[str, object]] = []
    for rule in ("adamw", "sgd", "lion"):
        parameter = torch.nn.Parameter(torch.ones(3))
        given = {"lr": 0.5, "betas": (0.25, 0.75), "eps": 1e-8, "weight_decay": 0.0}
        group = optimizer(rule, made)([parameter], **given).param_groups[0]
        first = "momentum" if rule == "sgd" else "beta1"
        assert (group["lr"], group[first], group["warmup_steps"]) == (0.5, 0.25, 101)
    assert made == [{"lr": 0.5, "betas": (0.25, 0.75)}] * 3


def test_tensors_for_a_gpu_are_made_on_the_processor():
    with OnTheProcessor():
        made = [torch.zeros(2, device="cuda"), torch.ones(2).cuda(), torch.ones(2).to("cuda:0")]
        generator = torch.Generator(device=made[0].device)
    assert {tensor.device.type for tensor in (*made, generator)} == {"cpu"}


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lightbench, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["lightbench"])
    with pytest.raises(SystemExit, match="pip install lightbench"):
        lightbench.main()
