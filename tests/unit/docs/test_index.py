"""The first page of the documentation leads to every other, in the browser and as plain Markdown."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_every_page_is_in_the_index():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}(.*?)```", text, flags=re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    linked = [link.rsplit(".", 1)[0] for link in re.findall(r"^\* \[.*?\]\((.*?)\)", text, flags=re.MULTILINE)]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    assert listed == linked
    assert set(listed) == pages | {"api"}
