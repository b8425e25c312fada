"""From emitted source text to functions."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any

from optdsl.backends.base import EntryPoint, SourceModule


@dataclass(frozen=True)
class Function:
    """A built entry point."""

    entry: EntryPoint
    call: Callable[..., tuple[Any, ...]]

    def __call__(
        self, theta: Any, g: Any, state: dict[str, Any], hypers: dict[str, Any], t: float
    ) -> dict[str, Any]:
        """Call it with what it takes; what it returns, by name."""
        keywords = dict(zip(self.entry.keywords, self._picked(hypers), strict=True))
        if self.entry.takes_step:
            keywords["t"] = t
        results = self.call(theta, g, *(state[s] for s in self.entry.states), **keywords)
        return dict(zip(self.entry.results, results, strict=True))

    def _picked(self, hypers: dict[str, Any]) -> list[Any]:
        return [hypers[h] for h in self.entry.hypers]


@dataclass(frozen=True)
class Rule:
    """A built rule: how its states start, and its step."""

    source: SourceModule
    initialize: Function
    step: Function


def build(source: SourceModule) -> Rule:
    """Execute an emitted Python module; a traceback through it shows its lines."""
    filename = f"<optdsl {source.name} {source.language} {abs(hash(source.text)):x}>"
    linecache.cache[filename] = (len(source.text), None, source.text.splitlines(True), filename)
    code: CodeType = compile(source.text, filename, "exec")
    namespace: dict[str, Any] = {"__name__": f"optdsl.generated.{source.name}"}
    exec(code, namespace)
    functions = {
        entry.name: Function(entry, namespace[entry.name])
        for entry in (source.initialize, source.step)
    }
    return Rule(source, functions["initialize"], functions["step"])
