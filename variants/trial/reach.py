"""How this machine reaches the package index and Debian's archive: what another system needs from it to reach them, too."""

from __future__ import annotations

import fnmatch
import os
import shutil
from pathlib import Path

#: pip's files, certificates, name servers.
_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs", "/usr/local/share/ca-certificates")
_OWN = (".config/pip", ".pip", ".netrc")
_VARIABLES = ("PIP_*", "UV_*INDEX*", "*_PROXY", "SSL_CERT_*", "REQUESTS_CA_BUNDLE")


def variables() -> dict[str, str]:
    """Variables of this machine's that lead to the package index."""
    return {name: value for name, value in os.environ.items() if any(fnmatch.fnmatch(name.upper(), one) for one in _VARIABLES)}


def lay(root: Path) -> None:
    """Copy the files that lead to the package index, and those that its variables name, into the system in `root`."""
    named = [Path(word) for value in variables().values() for word in value.split() if word.startswith("/")]
    for source in dict.fromkeys([*map(Path, _FILES), *(Path.home() / name for name in _OWN), *named]):
        target = root / str(source).lstrip("/")
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)  # links become files: they lead out of the root
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
