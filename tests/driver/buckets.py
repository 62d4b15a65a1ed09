"""Places for copies of checkpoints: fsspec's memory, and servers that speak as S3 and GCS do.

    pip install "coop-rl[s3,gs]" "moto[server,s3]" gcp-storage-emulator
    pytest -m prove tests/driver/test_checkpoint_target.py

The servers are other people's imitations, on loopback; the clients are those a run uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest
from fsspec.implementations.memory import MemoryFileSystem

NAME = "bucket"
RUNS = f"{NAME}/runs"


@dataclass(frozen=True)
class Bucket:
    """A bucket, and the folder in it that a run called demo copies to."""

    files: Any
    url: str
    folder: str


@contextmanager
def in_memory(_: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Hold a bucket of this process."""
    yield Bucket(MemoryFileSystem(), f"memory://{RUNS}", f"/{RUNS}/demo")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@contextmanager
def on_s3(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Serve a bucket as S3 does, by moto."""
    moto = pytest.importorskip("moto.server", reason="shared data: moto[server,s3] is not here")
    s3fs = pytest.importorskip("s3fs", reason="shared data: s3fs is not here")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # It keeps what it holds for the life of the process.
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    files.mkdir(NAME)
    try:
        yield Bucket(files, f"s3://{RUNS}", f"{RUNS}/demo")
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def on_gcs(patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Serve a bucket as GCS does, by gcp-storage-emulator."""
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server", reason="shared data: gcp-storage-emulator is not here"
    )
    gcsfs = pytest.importorskip("gcsfs", reason="shared data: gcsfs is not here")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket=NAME)
    server.start()
    port = server._api._httpd.socket.getsockname()[1]
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    gcsfs.GCSFileSystem.clear_instance_cache()
    try:
        files = gcsfs.GCSFileSystem(use_listings_cache=False)
        yield Bucket(files, f"gs://{RUNS}", f"{RUNS}/demo")
    finally:
        server.stop()
        gcsfs.GCSFileSystem.clear_instance_cache()


SERVED = {"memory": in_memory, "s3": on_s3, "gs": on_gcs}
