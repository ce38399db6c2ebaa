"""Images that a restored daemon makes: the same bytes, whole in archives and registries."""

from __future__ import annotations

import hashlib
import io
import shutil
import stat
import struct
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.conftest import Registries
from tests.integration.contexts import BASE, context, write
from tests.integration.exports import Image, oci_archive, pulled
from tests.integration.sidecars import Pod, pod
from tests.integration.stored import Stored

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SECRET = "correct-horse-battery-staple-7193"
PUBLIC = "a-line-of-a-file-in-a-layer-2240"

#: vfs_cap_data, revision 2: cap_net_bind_service, effective and permitted (capabilities(7)).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)

#: Layers over layers: files go, come back, change their names, directories become opaque.
UPON = (
    "RUN rm /exact/gone && mv /exact/before /exact/after && rm -r /exact/full && "
    "mkdir /exact/full && echo new > /exact/full/new && mv /exact/dir /exact/moved && "
    "ln /exact/plain /exact/second-name && chmod 2755 /exact/moved\n"
    "RUN chown 1234:4321 /exact/plain && ln -s ../target /exact/symlink && mkfifo /exact/fifo && "
    "dd if=/dev/zero of=/exact/sparse bs=1 count=1 seek=5000000 2>/dev/null\n"
    "RUN rm -r /exact/moved && mkdir -p /exact/moved/empty\n"
)


def exact(path: Path) -> None:
    """Write an archive of files as ADD unpacks them: with everything that a file can have."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: bytes = b"", **attributes: object) -> None:
            info = tarfile.TarInfo(f"exact/{name}")
            info.size = len(content)
            info.mtime = 1_700_000_000
            # A record of its own: a float would lose the nanoseconds.
            info.pax_headers = {"mtime": "1700000000.123456789"}
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(content))

        def xattr(name: str, value: str) -> dict[str, str]:
            return {"mtime": "1700000000.123456789", f"SCHILY.xattr.{name}": value}

        for directory in ("", "dir/", "full/", "full/sub/", "many/"):
            add(directory, type=tarfile.DIRTYPE, mode=0o755)
        add("plain", b"plain\n", mode=0o640)
        add("setuid", b"#!/bin/sh\n", mode=0o4755, uid=5, gid=6)
        add("sticky/", type=tarfile.DIRTYPE, mode=0o3777)
        add(
            "capable", b"capable\n", mode=0o755,
            pax_headers=xattr("security.capability", CAPABILITY.decode("latin-1")),
        )  # fmt: skip
        # BuildKit leaves these out of images; what becomes of them is for the round-trip tests.
        add("attributed", b"x", mode=0o600, pax_headers=xattr("user.note", "kept"))
        add("link-to-plain", type=tarfile.LNKTYPE, linkname="exact/plain")
        add("gone", b"gone\n")
        add("before", b"before\n")
        add("dir/inside", b"inside\n")
        add("full/old", b"old\n")
        add("full/sub/older", b"older\n")
        add("umlaut-\xfc", b"name\n")
        add("large", hashlib.shake_256(b"large").digest(5_000_000))
        add("owned", b"", uid=60000, gid=60001)
        for number in range(300):
            add(f"many/{number}", f"{number}\n".encode() * number)


@dataclass(frozen=True)
class Seed:
    """What pod 1 published, and the images that it made itself afterwards."""

    store: Path
    contexts: Path
    images: dict[str, Image]
    pushed: str


@dataclass(frozen=True)
class Hosts:
    """Registries: the one that pod 1 pushes to, and one that is empty until pod 2 does."""

    first: str
    second: str
    config: Path


@pytest.fixture(scope="module")
def hosts(registries: Registries) -> Hosts:
    first, second = registries.start("first"), registries.start("second")
    return Hosts(first, second, registries.daemon_config(first, second))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seed(shared: Path, hosts: Hosts) -> Seed:
    places = shared / "contexts"
    context(places / "exact", BASE + "ADD exact.tar /\n" + UPON)
    exact(places / "exact" / "exact.tar")
    context(places / "pushed", BASE + f"RUN echo {PUBLIC} > /marked\nCOPY f /f\n", {"f": "1\n"})
    step = "RUN --mount=type=secret,id=token test $(wc -c < /run/secrets/token) = 33 && echo ok\n"
    context(places / "secret", BASE + step)
    (shared / "token").write_text(SECRET)
    flags = (f"--store={shared / 'live'}", f"--buildkitd-config={hosts.config}")
    async with pod(shared / "one", *flags) as one:
        # Without an output: there are snapshots and no blobs.
        await one.build(places / "exact")
        await one.build(places / "secret", f"--secret=id=token,src={shared / 'token'}")
        await one.build(places / "pushed", push(hosts.first))
        assert (await one.checkpoint())["published"]
        shutil.copytree(shared / "live", shared / "store")
        images = {name: await archived(one, places / name) for name in ("exact", "pushed")}
        assert await one.stop() == 0
    pushed = (await pulled(hosts.first, "app", "latest")).manifest_digest
    return Seed(shared / "store", places, images, pushed)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restored(seed: Seed, shared: Path, hosts: Hosts) -> AsyncIterator[Pod]:
    flags = (f"--store={seed.store}", "--publish=never", f"--buildkitd-config={hosts.config}")
    async with pod(shared / "two", *flags) as two:
        yield two


def push(host: str) -> str:
    return f"--output=type=image,name={host}/app:latest,push=true"


async def archived(one: Pod, place: Path, *options: str) -> Image:
    """Build into an OCI archive and read it."""
    path = one.root.with_name(f"{one.root.name}-{place.name}.tar")
    build = await one.build(place, f"--output=type=oci,dest={path}", *options)
    assert build.ran == [] or one.root.name != "two" or "changed" in place.name
    return oci_archive(path)


async def test_layers_have_every_byte_and_attribute(seed: Seed, restored: Pod) -> None:
    """Pod 2 makes the archive from restored snapshots, pod 1 from its own: equal layers."""
    image = await archived(restored, seed.contexts / "exact")
    assert image.diff_ids == seed.images["exact"].diff_ids
    assert image.manifest_digest == seed.images["exact"].manifest_digest


async def test_layers_have_what_was_put_into_them(seed: Seed, restored: Pod) -> None:
    image = await archived(restored, seed.contexts / "exact")
    added, changed, owned, opaque = (image.entries(n) for n in range(2, 6))
    assert added["exact/setuid"].mode & 0o7777 == 0o4755
    assert (added["exact/setuid"].uid, added["exact/setuid"].gid) == (5, 6)
    assert added["exact/sticky"].mode & 0o7777 == 0o3777
    headers = added["exact/capable"].pax_headers
    assert headers["SCHILY.xattr.security.capability"].encode("latin-1") == CAPABILITY
    assert added["exact/setuid"].mtime == 1_700_000_000
    links = {added["exact/plain"].linkname, added["exact/link-to-plain"].linkname}
    assert links & {"exact/plain", "exact/link-to-plain"}
    assert added["exact/owned"].uid == 60000
    assert {"exact/.wh.gone", "exact/.wh.before", "exact/.wh.dir"} <= changed.keys()
    assert changed["exact/after"].size == len("before\n")
    assert "exact/full/new" in changed
    assert {"exact/full/.wh..wh..opq", "exact/full/.wh.old"} & changed.keys()
    assert stat.S_IMODE(changed["exact/moved"].mode) == 0o2755
    assert (owned["exact/plain"].uid, owned["exact/plain"].gid) == (1234, 4321)
    assert owned["exact/fifo"].isfifo()
    assert owned["exact/symlink"].linkname == "../target"
    assert owned["exact/sparse"].size == 5_000_001
    assert "exact/moved/empty" in opaque


async def test_a_push_of_restored_blobs_is_whole(seed: Seed, restored: Pod, hosts: Hosts) -> None:
    """The registry is empty, so every blob is read, and each was a lease in this pod."""
    before = (await restored.status())["objects"]["demand"]
    await restored.build(seed.contexts / "pushed", push(hosts.second))
    image = await pulled(hosts.second, "app", "latest")
    assert image.manifest_digest == seed.pushed
    assert any(PUBLIC.encode() in layer for layer in image.uncompressed)
    assert image.diff_ids == seed.images["pushed"].diff_ids
    state = await restored.status()
    assert state["objects"]["demand"] + state["objects"]["prefetch"] > before


async def test_a_changed_image_goes_upon_restored_blobs(
    seed: Seed, restored: Pod, hosts: Hosts
) -> None:
    place = seed.contexts / "pushed-changed"
    shutil.copytree(seed.contexts / "pushed", place)
    write(place, {"f": "2\n"})
    build = await restored.build(place, push(hosts.second).replace(":latest", ":changed"))
    assert build.ran == ["COPY f /f"]
    image = await pulled(hosts.second, "app", "changed")
    assert image.diff_ids[:-1] == seed.images["pushed"].diff_ids[:-1]
    assert image.diff_ids[-1] != seed.images["pushed"].diff_ids[-1]
    assert b"2\n" in image.uncompressed[-1]


async def test_an_archive_of_restored_blobs_is_whole(seed: Seed, restored: Pod) -> None:
    image = await archived(restored, seed.contexts / "pushed")
    assert image.manifest_digest == seed.images["pushed"].manifest_digest


async def test_an_inline_cache_is_exported_beside_ours(
    seed: Seed, restored: Pod, hosts: Hosts
) -> None:
    output = push(hosts.second).replace(":latest", ":inline")
    build = await restored.build(seed.contexts / "pushed", output, "--export-cache=type=inline")
    assert build.ran == []
    image = await pulled(hosts.second, "app", "inline")
    assert image.config["moby.buildkit.cache.v0"]


async def test_a_base_image_is_pulled_by_the_restored_daemon(
    seed: Seed, restored: Pod, hosts: Hosts, directory: Path
) -> None:
    """With its layers there by name already, and as a base of something new."""
    dockerfile = f"FROM {hosts.first}/app:latest\nRUN cat /marked > /read\n"
    place = context(directory / "context", dockerfile)
    exported = await restored.export(place)
    assert (exported / "read").read_text() == f"{PUBLIC}\n"
    assert seed.pushed


async def test_a_secret_is_nowhere_in_the_store(seed: Seed) -> None:
    """Neither in a file nor in a chunk; the same search finds what is no secret."""
    words = (SECRET, PUBLIC, "id=token")
    contents = Stored(seed.store).contents()
    found = {word for content in contents for word in words if word.encode() in content}
    assert found == {PUBLIC, "id=token"}
