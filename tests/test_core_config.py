"""Settings are checked when they are read: a wrong key or value is an error that names the right one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.core.config import load_config, nearest, read_mapping, set_by_path, to_dict
from nnunet_spine_ext.core.errors import UsageError


@dataclass(frozen=True)
class Noise:
    sigma: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    name: str
    epochs: int = 10
    rate: float = 0.5
    mirror: bool = True
    loss: Literal["dice", "wing"] = "dice"
    patch: tuple[int, int, int] = (1, 2, 3)
    tags: tuple[str, ...] = ()
    steps: int | tuple[int, ...] = 1
    noise: Noise = field(default_factory=Noise)
    extra: Noise | None = None
    weights: dict[str, float] = field(default_factory=dict)
    anything: Any = None


def load(**values: Any) -> Settings:
    return load_config(Settings, {"name": "a", **values}, where="my.yaml")


def refused(**values: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(**values)
    assert caught.value.exit_code == 2
    assert caught.value.file.startswith("my.yaml")
    return caught.value


def test_defaults_and_values() -> None:
    assert load() == Settings("a")
    made = load(
        epochs=3, rate=1, patch=[4, 5, 6], tags=["x"], steps=[1, 2], noise={"sigma": 2}, extra={"seed": 3},
        weights={"b": 1}, anything=[{"k": None}],
    )  # fmt: skip
    assert made == Settings(
        "a", 3, 1.0, patch=(4, 5, 6), tags=("x",), steps=(1, 2), noise=Noise(2.0), extra=Noise(seed=3),
        weights={"b": 1.0}, anything=[{"k": None}],
    )  # fmt: skip
    assert isinstance(made.rate, float)
    assert isinstance(made.noise.sigma, float)
    assert load(extra=None).extra is None


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"epoch": 3}, "my.yaml"),
        ({"noise": {"epochs": 3}}, "my.yaml: noise"),
        ({"noise": {"sigmo": 3}}, "my.yaml: noise"),
        ({"extra": {"sigmo": 3}}, "my.yaml: extra"),
        ({1: 2}, "my.yaml"),
    ],
)
def test_unknown_keys_are_refused_and_the_place_is_named(values: dict[Any, Any], place: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(Settings, {"name": "a", **values}, where="my.yaml")
    assert caught.value.code == "E-CONFIG-KEY"
    assert caught.value.file == place
    assert "known:" in caught.value.fix


def test_the_nearest_name_is_offered() -> None:
    assert "did you mean 'epochs'?" in refused(epoch=3).fix
    assert "did you mean 'sigma'?" in refused(extra={"sigmo": 3}).fix
    assert "did you mean 'wing'?" in refused(loss="wingg").fix
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


def test_missing_keys_are_named() -> None:
    with pytest.raises(UsageError, match="no value for name"):
        load_config(Settings, {})


@pytest.mark.parametrize("source", [5, None, [1], "name: a"])
def test_something_else_than_keys_with_values_is_refused(source: Any) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(Settings, source, where="settings.yaml")
    assert (caught.value.code, caught.value.file) == ("E-CONFIG-VALUE", "settings.yaml")
    assert "epochs" in caught.value.fix


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": True}, {"epochs": 1.5}, {"epochs": "3"}, {"epochs": None}, {"rate": True}, {"rate": "fast"},
        {"rate": "nan"}, {"mirror": 1}, {"mirror": "yes"}, {"loss": "mse"}, {"loss": None}, {"patch": [1, 2]},
        {"patch": [1, 2, 3.5]}, {"patch": "123"}, {"patch": 3}, {"tags": "abc"}, {"tags": [1]}, {"steps": "x"},
        {"steps": [1, "x"]}, {"steps": True}, {"noise": 3}, {"noise": None}, {"extra": 3}, {"weights": {"a": "b"}},
        {"weights": [1]}, {"name": 3},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_another_type_are_refused(values: dict[str, Any]) -> None:
    error = refused(**values)
    assert error.code == "E-CONFIG-VALUE"
    assert next(iter(values)) in error.file


@pytest.mark.parametrize("text", ["1e-3", "1E5", "-2e+1", "1.5e-3", "7"])
def test_exponents_without_a_dot_are_numbers(text: str) -> None:
    # YAML reads 1e-3 as text.
    assert load(rate=yaml.safe_load(text)).rate == float(text)


@given(
    st.builds(
        Settings,
        name=st.text(max_size=5),
        epochs=st.integers(-5, 5),
        rate=st.floats(allow_nan=False, allow_infinity=False),
        mirror=st.booleans(),
        loss=st.sampled_from(["dice", "wing"]),
        patch=st.tuples(st.integers(), st.integers(), st.integers()),
        tags=st.lists(st.text(max_size=3), max_size=3).map(tuple),
        steps=st.integers() | st.lists(st.integers(), max_size=3).map(tuple),
        noise=st.builds(Noise, sigma=st.floats(0, 1), seed=st.integers(0, 9)),
        extra=st.none() | st.builds(Noise, seed=st.integers(0, 9)),
        weights=st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=2),
    )
)
def test_settings_survive_json_and_yaml(settings: Settings) -> None:
    plain = to_dict(settings)
    assert load_config(Settings, json.loads(json.dumps(plain))) == settings
    assert load_config(Settings, yaml.safe_load(yaml.safe_dump(plain))) == settings


def test_set_by_path() -> None:
    target: dict[str, Any] = {"train": {"epochs": 3}}
    for assignment in ("train.epochs=5", "train.mirror = false", "predict.tta.axes=[0, 1]", "name=a=b", "none="):
        set_by_path(target, assignment)
    assert target == {
        "train": {"epochs": 5, "mirror": False},
        "predict": {"tta": {"axes": [0, 1]}},
        "name": "a=b",
        "none": None,
    }


@pytest.mark.parametrize("assignment", ["train.epochs", "=3", "", "train.epochs.x=1", "a=[1, 2", "a='x"])
def test_wrong_assignments_are_usage_errors(assignment: str) -> None:
    target: dict[str, Any] = {"train": {"epochs": 3}}
    with pytest.raises(UsageError) as caught:
        set_by_path(target, assignment)
    assert caught.value.code == "E-CONFIG-SET"


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: ä\nnoise: {sigma: 1e-3}\n", encoding="utf-8")
    assert load_config(Settings, read_mapping(tmp_path / "a.yaml")).noise.sigma == 0.001
    (tmp_path / "a.json").write_text('{"name": "b"}', encoding="utf-8")
    assert read_mapping(tmp_path / "a.json") == {"name": "b"}


@pytest.mark.parametrize(
    "content", [b"a: [1", b"a: b: c", b"\xff\xfe\x00", b"- 1\n- 2\n", b"text", b"", b"a: !!python/object:os.system {}"]
)
def test_broken_files_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    for place in (path, tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError) as caught:
            read_mapping(place)
        assert caught.value.code == "E-CONFIG-READ"
        assert caught.value.file == str(place)
