"""Rules for learned hyperparameters: of the library, other directories, and files by path."""

from __future__ import annotations

from collections.abc import Iterable

from optdsl.diagnostics import Source
from optdsl.ir.program import Hyper, Learned
from optdsl.options import OptionError
from optdsl.specifications import library, search, sources
from optdsl.specifications.references import BY, learner_name


class Rulebook(library.Library):
    """The rules for `selection.select`; it remembers those that are files."""

    def __init__(self, source: Source) -> None:
        """Begin with the files that a specification itself learns by."""
        own = (rule for name, rule in library.recipe(source)[3] if name.startswith(BY))
        self._files = {learner_name(rule[0]): rule for rule in own}

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """A rule's name in programs and its hyperparameters; None for an unknown name.

        Raises:
            OptionError: for a file that cannot be read, or has the name of another one.
            SpecError: for a file with mistakes.
        """
        try:
            if not sources.is_path(name):
                library_has = sources.in_library(name)
                if sources.elsewhere(name, library_has) is None:
                    return super().hypers(name)
            source = sources.open_source(name)
        except search.SpecClashError as error:
            raise OptionError(f"Learn: {error}") from None
        except (OSError, ValueError) as error:
            raise OptionError(f"Learn: {name} cannot be read: {error}") from None
        own, recipe = learner_name(source.name), library.recipe(source)
        if self._files.setdefault(own, recipe) != recipe:
            raise OptionError(
                f"Learn: {name} and {self._files[own][0]} are two rules of one name; rename one"
            )
        return own, library.read(source).hypers

    def used(self, learned: Iterable[Learned]) -> sources.RuleFiles:
        """Those files whose rules some hyperparameters are learned by."""
        rules = {x.rule for x in learned}
        return tuple((n, recipe) for n, recipe in sorted(self._files.items()) if n in rules)
