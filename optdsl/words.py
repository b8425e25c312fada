"""Words that the language and the options share: how a hyperparameter is learned."""

from __future__ import annotations

from typing import Literal, get_args

# What has a learned value of its own, and what its rule follows.
Scope = Literal["optimizer", "group", "tensor"]
Signal = Literal["raw", "sign", "cosine"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SIGNALS: tuple[Signal, ...] = get_args(Signal)
