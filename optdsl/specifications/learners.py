"""The rules by which hyperparameters learn: the library's, a file's neighbours', and the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from optdsl.diagnostics import Source
from optdsl.ir.program import Hyper, Learned
from optdsl.options import Learn, LearnOption, OptionError
from optdsl.specifications import library
from optdsl.specifications.references import learner_name

# The rules that are files, by the names that they have in programs, with all they are made of.
Learners = tuple[tuple[str, library.Recipe], ...]


def is_path(rule: str) -> bool:
    """Whether a user means a file, as `library.open_source` sees it."""
    return rule.endswith(".opt") or os.sep in rule


def paths(learn: LearnOption) -> list[str]:
    """The files that a user names as rules."""
    hows = learn.values() if isinstance(learn, Mapping) else ()
    return [how.rule for how in hows if isinstance(how, Learn) and is_path(how.rule)]


class Rulebook:
    """The rules for `selection.select`; it remembers which files they were."""

    def __init__(self, source: Source) -> None:
        """Begin with the rules that a specification names itself."""
        self._files = library.learner_recipes(source)

    def names(self) -> Iterable[str]:
        """The names of the library's rules."""
        return library.list_specs()

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """A rule's name in programs and its hyperparameters; None when there is none.

        Raises:
            OptionError: for a file that cannot be read, or is called like another one.
            SpecError: for a file with mistakes.
        """
        if not is_path(name):
            return library.LIBRARY.hypers(name)
        try:
            source = library.open_source(name)
        except (OSError, ValueError) as error:
            raise OptionError(f"Learn: {name} cannot be read: {error}") from None
        own, recipe = learner_name(source.name, library.list_specs()), library.recipe(source)
        if self._files.setdefault(own, recipe) != recipe:
            raise OptionError(
                f"Learn: {name} and {self._files[own][0]} are two rules of one name; rename one"
            )
        return own, library.read(source).hypers

    def used(self, learned: Iterable[Learned]) -> Learners:
        """The files by whose rules some hyperparameters learn."""
        rules = {x.rule for x in learned}
        return tuple((n, recipe) for n, recipe in sorted(self._files.items()) if n in rules)
