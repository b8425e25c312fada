"""The rules take the steps of others: here of torch.optim.SGD, whose momentum is the same."""

import torch

import optdsl


def trained(make):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(20, 3, dtype=torch.float64))
    optimizer = make([p])
    for _ in range(100):
        p.grad = torch.randn_like(p)
        optimizer.step()
    return p.detach()


def test_my_rule_is_sgd_with_momentum():
    ours = trained(optdsl.load("my_rule"))
    theirs = trained(lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_half_of_it_is_half_the_learning_rate():
    half = trained(optdsl.load("my_rule with my_half"))
    theirs = trained(lambda params: torch.optim.SGD(params, lr=5e-4, momentum=0.9))
    torch.testing.assert_close(half, theirs, rtol=0, atol=1e-12)
