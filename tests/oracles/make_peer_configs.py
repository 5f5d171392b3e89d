"""Record what becomes of the configurations that SmaugLab and AugLab ship.

    python tests/oracles/make_peer_configs.py --fixture tests/fixtures/peer_configs.json

`make peers` installs SmaugLab into .oracles/smauglab; its wheel holds its configurations. That of AugLab holds none:
they are in its repository, a copy of which is looked for in .oracles/auglab-source:

    git clone https://github.com/neuropoly/AugLab .oracles/auglab-source
    git -C .oracles/auglab-source checkout 1ee096a6cf873146db76cf342d923817d9d5af48

Only counts, versions and hashes are stored, nothing of the files. A peer that is missing keeps its stored record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from nnunet_spine_ext.augment.migrate import import_config
from nnunet_spine_ext.core.errors import SpineExtError

ORACLES = Path(".oracles")
FOLDERS = {
    "smauglab": "smauglab/lib/python3.*/site-packages/smauglab/configs",
    "auglab": "auglab-source/auglab/configs",
}
VERSIONS = {
    "smauglab": "smauglab 2.0.0, wheel of the package index",
    "auglab": "AugLab 1ee096a6cf873146db76cf342d923817d9d5af48, repository",
}


def shipped(peer: str, oracles: Path = ORACLES) -> dict[str, Path]:
    """Return the JSON files of a peer by their path in its folder of configurations; none if it is not there."""
    folders = sorted(oracles.glob(FOLDERS[peer]))
    return {path.relative_to(f).as_posix(): path for f in folders for path in sorted(f.rglob("*.json"))}


def outcome(path: Path) -> dict[str, Any]:
    """Return what becomes of a file: counts, or the code of the error that refuses it."""
    found: dict[str, Any] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    try:
        result = import_config(path)
    except SpineExtError as error:
        return {**found, "refused": error.code}
    counts = {name: len(getattr(result, name)) for name in ("converted", "ignored", "unmatched")}
    return {**found, "layout": result.layout, **counts, "expected": result.expected}


def main() -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixture", type=Path, required=True)
    fixture = parser.parse_args().fixture
    record = json.loads(fixture.read_text(encoding="utf-8")) if fixture.is_file() else {"peers": {}}
    record["command"] = "python tests/oracles/make_peer_configs.py --fixture tests/fixtures/peer_configs.json"
    for peer, version in VERSIONS.items():
        files = shipped(peer)
        if files:
            outcomes = {name: outcome(path) for name, path in files.items()}
            record["peers"][peer] = {"version": version, "files": outcomes}
    fixture.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
