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
    parts = []
    for item in error.errors():
        place = item["loc"]
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if item["type"] == "extra_forbidden":
            hint = nearest(str(place[-1]), cls.model_fields) if len(place) == 1 else ""
            message = "there is no such setting" + (f": {hint}" if hint else "")
        field = ".".join(map(str, place)) or "the study"
        parts.append(f"line {_line(root, place)}, {field}: {message}")
    return f"{path}, {'; '.join(parts)}"


def _line(node: Any, place: tuple[int | str, ...]) -> int:
    """Returns the line of a field, or of the nearest one around it, counted from 1."""
    line: int = node.start_mark.line + 1
    for step in place:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(step)]
            if not pairs:
                return line
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            if step >= len(node.value):
                return line
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            return line
    return line
