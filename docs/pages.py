"""The pages of the documentation's site (mkdocs.yml): those of docs/, and README, CONTRIBUTING and CHANGELOG beside them.

mkdocs finds pages in one folder. Here each goes by its path in the repository, so links between them are right as they are.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")
#: The front page, and the page about the index, whose name is a front page's.
RENAMED = {"README.md": "index.html", "docs/index.md": "the-index.html"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and ours in place of those that mkdocs found."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    found = (
        path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*")) if path.suffix in (".md", ".svg", ".json")
    )
    for name in (*BESIDE, *found):
        page = RENAMED.get(name, name.removeprefix("docs/").replace(".md", ".html"))
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=page))
    return files
