"""The README in the metadata of distributions: its links are absolute there.

A package index shows the README without the repository around it.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def with_absolute_links(text: str, source: str) -> str:
    """Returns a Markdown text whose relative links lead to the repository.

    Args:
        text: The text; links to places within it stay as they are.
        source: The address of the repository.
    """

    def absolute(link: re.Match[str]) -> str:
        target = link["target"]
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        view = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({source}/{view}/main/{target})"

    return LINK.sub(absolute, text)


class Readme(MetadataHookInterface):
    """Sets the project's readme; pyproject.toml says that it is dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the README to the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": with_absolute_links(text, metadata["urls"]["Source"]),
        }
