"""A hook of MkDocs: README.md, CHANGELOG.md and SECURITY.md stay at the top of the repository and are pages too.

The Markdown of all pages links as a code host wants it, from where the file lies; here links to and from the three are
turned to where their pages are. MkDocs then checks them all.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = {name: f"{Path(name).stem.lower()}.md" for name in ("README.md", "CHANGELOG.md", "SECURITY.md")}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make a page of each."""
    for name, page in TOP.items():
        files.append(File.generated(config, page, abs_src_path=str(Path(config.config_file_path).parent / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **kwargs: Any) -> str:
    """Turn the links."""
    if page.file.src_uri in TOP.values():
        markdown = markdown.replace("](docs/", "](")
    for name, target in TOP.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(name)}(?=[)#])", f"]({target}", markdown)
    return markdown
