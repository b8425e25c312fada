"""Studies as YAML files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from optdsl.diagnostics import nearest
from optdsl.studies.errors import StudyError
from optdsl.studies.frame.study import Study


def write_study(study: Study) -> str:
    """Returns a study as YAML, with all settings."""
    text: str = yaml.safe_dump(
        study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100
    )
    return text


def read_study(path: Path, known: Mapping[str, type[Study]]) -> Study:
    """Reads a study from a YAML file.

    Args:
        path: The file.
        known: The classes of studies by name.

    Raises:
        StudyError: The file cannot be read, or something in it is wrong: which field of which
            line, and why.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise StudyError(f"cannot read '{path}': {reason}") from None
    try:
        data, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StudyError(f"{path}, line {line}: this is not YAML: {error.problem}") from None
    if not isinstance(data, dict):
        raise StudyError(f"{path}, line 1: a study is a mapping with the key 'study'")
    name = data.get("study")
    if not isinstance(name, str) or name not in known:
        said = "the key 'study' is missing" if name is None else f"there is no study '{name}'"
        hint = nearest(str(name), known) or f"the studies are {', '.join(known)}"
        raise StudyError(f"{path}, line {_line(root, ('study',))}: {said}: {hint}")
    try:
        return known[name].model_validate(data)
    except ValidationError as error:
        raise StudyError(_told(path, root, error, known[name])) from None


def _told(path: Path, root: Any, error: ValidationError, cls: type[Study]) -> str:
    """Returns all mistakes in one line, each with its line and its field."""
    found = []
    for item in error.errors():
        line, place = _found(root, item["loc"], item["type"] == "missing")
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if item["type"] == "extra_forbidden":
            hint = nearest(str(place[-1]), cls.model_fields) if len(place) == 1 else ""
            message = "there is no such setting" + (f": {hint}" if hint else "")
        found.append((line, place, message))
    parts = []
    for line, place, message in found:
        # What may be one of several things, and has parts, is meant as the one that has parts.
        if not any(len(part) > len(place) > 0 and part[: len(place)] == place
                   for _, part, _ in found):  # fmt: skip
            field = ".".join(map(str, place)) or "the study"
            parts.append(f"line {line}, {field}: {message}")
    return f"{path}, {'; '.join(parts)}"


def _line(node: Any, place: tuple[int | str, ...]) -> int:
    """Returns the line of a field, or of the nearest one around it, counted from 1."""
    return _found(node, place, True)[0]


def _found(
    node: Any, place: tuple[int | str, ...], missing: bool
) -> tuple[int, tuple[int | str, ...]]:
    """Returns the line of a field, as `_line` does, and the steps to it that the document has.

    Args:
        node: The document.
        place: The steps to the field, and names of types where it may be one of several things.
        missing: Whether the last step is a field that the document lacks.
    """
    line: int = node.start_mark.line + 1
    steps: list[int | str] = []
    for step in place:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(step)]
            if not pairs:
                continue
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            if step >= len(node.value):
                break
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            continue
        steps.append(step)
    return line, (*steps, place[-1]) if missing and place else tuple(steps)
