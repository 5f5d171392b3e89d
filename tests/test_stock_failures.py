"""The list of cases whose phases failed in stock prediction, written by processes side by side."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.inference import managers, stock_failures
from nnunet_spine_ext.inference.stock_failures import FAILURES, failed_cases, list_failures


def test_cases_that_fail_at_once_are_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers, "_without_instances", ["another"])
    names = [f"case{k}" for k in range(8)]
    threads = [
        threading.Thread(target=managers._record_failure, args=(tmp_path / f"{name}.nii.gz", ValueError(name)))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / FAILURES).read_text().split() == names == failed_cases(tmp_path)


def test_the_list_goes_with_its_last_case(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_json(tmp_path / "qc" / f"{name}.json", {"error": {"code": "E-INST-FAILED"}})
    (tmp_path / "qc" / "c.json").write_text("{ damaged")
    list_failures(tmp_path)
    assert (tmp_path / FAILURES).read_text() == "a\nb\n"
    write_json(tmp_path / "qc" / "a.json", {"numbered": False})
    list_failures(tmp_path)
    assert (tmp_path / FAILURES).read_text() == "b\n"
    (tmp_path / "qc" / "b.json").unlink()
    list_failures(tmp_path)
    assert not (tmp_path / FAILURES).exists()


def test_with_a_list_only_the_case_that_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(stock_failures, "read_json", lambda path: read.append(path.stem) or read_json(path))
    for name in ("a", "b", "c", "d"):
        write_json(tmp_path / "qc" / f"{name}.json", {"error": {}} if name in "ab" else {})
    list_failures(tmp_path, "b")
    assert (tmp_path / FAILURES).read_text() == "a\nb\n"
    read.clear()
    write_json(tmp_path / "qc" / "d.json", {"error": {}})
    list_failures(tmp_path, "d")
    # What somebody took away is no failure.
    (tmp_path / "qc" / "a.json").unlink()
    write_json(tmp_path / "qc" / "b.json", {})
    list_failures(tmp_path, "b")
    assert (tmp_path / FAILURES).read_text() == "d\n"
    assert read == ["d", "b"]
    write_json(tmp_path / "qc" / "d.json", {})
    list_failures(tmp_path, "d")
    assert not (tmp_path / FAILURES).exists()


def test_a_list_that_cannot_be_written_costs_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "qc" / "a.json", {"error": {}})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stock_failures, "write_text", full)
    list_failures(tmp_path)
    assert not (tmp_path / FAILURES).exists()
