"""Nothing already written is ever damaged."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.errors import RunError
from workbench.files import (
    atomic_path,
    file_sha256,
    read_json,
    read_parquet,
    read_tensors,
    write_json,
    write_parquet,
    write_tensors,
)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "a.json": lambda path, value: write_json(path, {"value": value}),
    "a.parquet": lambda path, value: write_parquet(path, pd.DataFrame({"value": [value]})),
    "a.safetensors": lambda path, value: write_tensors(path, {"value": torch.tensor([value])}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_disk_full_leaves_the_old_file_and_no_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    WRITERS[name](path, 1)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            WRITERS[name](path, 2)
    assert path.read_bytes() == before
    assert files_in(tmp_path) == {name}
    WRITERS[name](path, 2)  # and once there is room again it works
    assert path.read_bytes() != before


@pytest.mark.parametrize("name", WRITERS)
def test_no_room_while_the_bytes_are_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, 1)
    before = path.read_bytes()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The real thing, not a mock: the system refuses to let any file grow beyond 8 bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, unlimited[1]))
    try:
        with pytest.raises(RunError, match=f"cannot write .*{name}"):
            WRITERS[name](path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert path.read_bytes() == before
    assert files_in(tmp_path) == {name}


def test_any_exception_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert files_in(tmp_path) == {"a.txt"}


def test_the_temporary_file_keeps_suffix_and_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "plot.svg") as temporary:
        assert temporary.suffix == ".svg"
        assert temporary.parent == tmp_path / "new"
        temporary.write_text("x")
    assert (tmp_path / "new" / "plot.svg").read_text() == "x"


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_json(tmp_path / "file" / "a.json", {})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, obj: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, obj)
    assert read_json(path) == obj


def test_json_takes_numpy_and_writes_nan_as_null(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": np.float32(0.5), "b": np.arange(3), "c": float("nan"), "d": (1, 2)})
    assert read_json(path) == {"a": 0.5, "b": [0, 1, 2], "c": None, "d": [1, 2]}
    with pytest.raises(TypeError, match="infinity"):
        write_json(path, {"a": float("inf")})
    with pytest.raises(TypeError, match="cannot express a set"):
        write_json(path, {"a": {1}})
    assert read_json(path)["a"] == 0.5


def test_tensors_are_read_back_with_their_metadata(tmp_path: Path) -> None:
    shared = torch.randn(3, 4, dtype=torch.float64)
    tensors = {"a": shared.T, "b": shared, "c": torch.tensor(3)}
    write_tensors(tmp_path / "a.safetensors", tensors, {"about": "test"})
    found, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"about": "test"}
    assert set(found) == {"a", "b", "c"}
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, 1)
    path.write_bytes(path.read_bytes()[:-8])
    readers = {".json": read_json, ".parquet": read_parquet, ".safetensors": read_tensors}
    with pytest.raises(RunError, match=name):
        readers[path.suffix](path)


@pytest.mark.parametrize("read", [read_json, read_parquet, read_tensors, file_sha256])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(RunError, match=r"missing file .*nothing"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": "\xff"}', "not UTF-8"), (b"[1]", "where a JSON object belongs")],
)
def test_bad_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_json(tmp_path / "a.json")
