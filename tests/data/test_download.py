"""Resume, checksums and safe unpacking, against a server on this machine that cuts connections."""

import functools
import http.server
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from symmetry_robustness.app import data as command
from symmetry_robustness.data import CIFAR10DataModule, download
from symmetry_robustness.data.archives import CIFAR
from symmetry_robustness.data.integrity import CHECKSUMS, Archive, digest
from symmetry_robustness.errors import UserError

from .conftest import write_binary, write_corrupted

MEGABYTE = 1 << 20
LENGTH, CUT = 20 * MEGABYTE, 8 * MEGABYTE
LOST = 5 * MEGABYTE  # more than what the client has read but not yet written when the connection breaks


class Server(http.server.ThreadingHTTPServer):
    """Serves files from memory with byte ranges; breaks off the first `cuts` longer answers after `cut_at` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts, self.cut_at = 0, 0
        self.sent = 0
        self.ranges: list[str | None] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        if self.server.cuts and len(content) > self.server.cut_at:
            self.server.cuts -= 1
            content = content[: self.server.cut_at]
        self.server.sent += len(content)
        self.wfile.write(content)

    def answer(self) -> bytes:
        content = self.server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return b""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        total = len(content)
        if wanted:
            self.server.ranges.append(wanted[0])
            first, last = int(wanted[1]), int(wanted[2] or total - 1)
            content = content[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@functools.cache
def random_bytes() -> bytes:
    return np.random.default_rng(0).bytes(LENGTH)


def pack(directory: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as tar:
        for path in sorted(directory.iterdir()):
            if path.name != CHECKSUMS:
                tar.add(path, f"{directory.name}/{path.name}")
        # A file that nobody reads makes the archive long enough to be cut.
        readme = tarfile.TarInfo(f"{directory.name}/readme.html")
        readme.size = LENGTH
        tar.addfile(readme, io.BytesIO(random_bytes()))
    return buffer.getvalue()


@pytest.fixture
def archive(cifar10: CIFAR, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A tiny official archive on the server."""
    content = pack(write_binary(cifar10, tmp_path / "source"))
    server.files["cifar.tar.gz"] = content
    packed = tmp_path / "packed"
    packed.write_bytes(content)
    made = replace(cifar10.archive, url=server.url("cifar.tar.gz"), md5=digest(packed, "md5"))
    monkeypatch.setitem(command.ARCHIVES, "cifar10", made)
    monkeypatch.setattr(CIFAR10DataModule, "cifar", replace(cifar10, archive=made))
    return made


def run(root: Path, *arguments: str) -> int:
    return command.main(["cifar10", "--root", str(root), *arguments])


def test_download_unpack_and_use(
    archive: Archive, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "new" / "root"
    assert run(root) == 0
    assert [path.name for path in root.iterdir()] == [archive.folder]
    CIFAR10DataModule(root=root, num_classes=10, validation_size=0).setup("fit")

    sent = server.sent
    assert run(root) == 0
    assert server.sent == sent
    assert "already there and valid" in " ".join(capsys.readouterr().out.split())


def test_cut_connection_is_resumed(archive: Archive, server: Server, tmp_path: Path) -> None:
    server.cuts, server.cut_at = 2, CUT
    assert run(tmp_path / "root") == 0
    size = len(server.files["cifar.tar.gz"])
    assert size <= server.sent < size + 2 * LOST


def test_download_goes_on_in_a_later_run(
    archive: Archive, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_RETRIES", 0)
    server.cuts, server.cut_at = 1, CUT
    with pytest.raises(UserError, match="start again, it goes on from here"):
        run(tmp_path / "root")
    assert not (tmp_path / "root" / archive.folder).exists()
    assert run(tmp_path / "root") == 0
    assert server.sent < len(server.files["cifar.tar.gz"]) + LOST


def test_wrong_checksum_leaves_nothing(archive: Archive, server: Server, tmp_path: Path) -> None:
    server.files["cifar.tar.gz"] = server.files["cifar.tar.gz"][::-1]
    with pytest.raises(UserError, match=f"expected {archive.md5}; deleted it"):
        run(tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_mirror_is_held_to_the_official_checksum(archive: Archive, server: Server, tmp_path: Path) -> None:
    server.files["mirror"] = server.files.pop("cifar.tar.gz")
    with pytest.raises(UserError, match="answers 404 Not Found; use another --url"):
        run(tmp_path / "root")
    assert run(tmp_path / "root", "--url", server.url("mirror")) == 0


def test_unreachable_server(archive: Archive, server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        run(tmp_path / "root", "--url", "http://127.0.0.1:9/cifar.tar.gz")
    assert not (tmp_path / "root").exists()


def test_archive_that_is_there_is_used_and_kept(archive: Archive, server: Server, tmp_path: Path) -> None:
    target = tmp_path / archive.filename
    target.write_bytes(server.files["cifar.tar.gz"])
    assert run(tmp_path) == 0
    assert server.sent == 0
    assert target.exists()


def test_other_archive_of_the_same_name_is_not_touched(archive: Archive, tmp_path: Path) -> None:
    target = tmp_path / archive.filename
    target.write_bytes(b"mine")
    with pytest.raises(UserError, match="is not the official archive"):
        run(tmp_path)
    assert target.read_bytes() == b"mine"


def test_damaged_folder_is_set_aside(archive: Archive, tmp_path: Path) -> None:
    run(tmp_path)
    damaged = tmp_path / archive.folder / "test_batch.bin"
    damaged.write_bytes(b"mine")
    assert run(tmp_path) == 0
    (aside,) = tmp_path.glob(f"{archive.folder}.replaced-*")
    assert (aside / "test_batch.bin").read_bytes() == b"mine"
    CIFAR10DataModule(root=tmp_path, num_classes=10, validation_size=0).setup("test")


def test_full_disk_is_noticed_before(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_SPACE", 1e12)
    with pytest.raises(UserError, match="GB are needed"):
        run(tmp_path / "root")


def test_directory_that_cannot_be_used(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        run(tmp_path / "file" / "root")


def evil_archive(archive: Archive, member: tarfile.TarInfo, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        member.size = 3 if member.isreg() else 0
        tar.addfile(member, io.BytesIO(b"own") if member.isreg() else None)
    return path


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "{folder}/../../escaped", "{folder}/data_batch_1.bin"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_archive_cannot_write_elsewhere(name: str, kind: bytes, archive: Archive, tmp_path: Path) -> None:
    member = tarfile.TarInfo(name.format(folder=archive.folder))
    member.type, member.linkname = kind, "/etc/passwd"
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    with pytest.raises(UserError):
        download.unpack(archive, evil_archive(archive, member, tmp_path / "evil.tar.gz"), root, Console())
    assert list(root.iterdir()) == []
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("length", [0, 1_000, 100_000])
def test_truncated_archive_leaves_nothing(length: int, archive: Archive, server: Server, tmp_path: Path) -> None:
    source = tmp_path / "short.tar.gz"
    source.write_bytes(server.files["cifar.tar.gz"][:length])
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(UserError, match=r"cannot be unpacked|is missing"):
        download.unpack(archive, source, root, Console())
    assert list(root.iterdir()) == []


def test_zenodo_states_address_and_checksum(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_corrupted("CIFAR-10-C", tmp_path / "source", np.zeros(20, np.uint8))
    content = pack(directory)
    (tmp_path / "packed").write_bytes(content)
    entry = {
        "key": "CIFAR-10-C.tar",
        "checksum": f"md5:{digest(tmp_path / 'packed', 'md5')}",
        "links": {"self": server.url("content")},
    }
    server.files |= {"content": content, "records/2535967": json.dumps({"files": [{"key": "other"}, entry]}).encode()}
    monkeypatch.setattr(download, "ZENODO", server.url("records/"))
    assert command.main(["cifar10c", "--root", str(tmp_path / "root")]) == 0
    assert (tmp_path / "root" / "CIFAR-10-C" / "fog.npy").read_bytes() == (directory / "fog.npy").read_bytes()


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"files": []}', b'{"files": [{"key": "CIFAR-10-C.tar"}]}', None]
)
def test_zenodo_without_the_checksum(
    answer: bytes | None, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is not None:
        server.files["records/2535967"] = answer
    monkeypatch.setattr(download, "ZENODO", server.url("records/"))
    with pytest.raises(UserError, match=r"does not say the checksum of CIFAR-10-C\.tar"):
        command.main(["cifar10c", "--root", str(tmp_path)])
