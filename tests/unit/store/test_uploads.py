"""Bodies of requests: whole, from the first byte each time, or an error of the file's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from buildsvc.store.uploads import BytesUpload, FileUpload, Upload

if TYPE_CHECKING:
    from pathlib import Path


def sent(upload: Upload) -> bytes:
    return b"".join(bytes(piece) for piece in upload.pieces())


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_a_body_is_whole_each_time(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        for upload in (BytesUpload(data), FileUpload(file.fileno())):
            assert upload.size == size
            for piece in upload.pieces():
                assert piece
                break
            assert all(len(piece) <= 256 << 10 for piece in upload.pieces()), "a limit for each"
            assert sent(upload) == data
            assert sent(upload) == data


def test_a_file_that_shrinks_is_the_callers_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        upload = FileUpload(file.fileno())
        os.truncate(path, 4)
        with pytest.raises(OSError, match="4 of 10"):
            sent(upload)


def test_a_file_that_grows_is_sent_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("r+b") as file:
        upload = FileUpload(file.fileno())
        os.truncate(path, 20)
        assert sent(upload) == b"0123456789"
