"""What fills a cache beside what a build needs: layers of other images, built once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perf.host import PerfError

#: The Dockerfile's target that has all of them made.
EVERYTHING = "everything"

#: Bytes that zstd makes an eighth of, no two blocks of 4 KiB alike; the argument is MiB.
FILL = (
    "perl -e 'open R, q(/dev/urandom); for (1 .. shift) { read R, $r, 131072;"
    " print map { (substr $r, 512 * $_, 512) x 8 } 0 .. 255 }'"
)
# A file with holes: of each 2.5 MiB the first 260 KiB, which are a chunk of their own. Less than
# 256 KiB would share one, and a hole is none.
_HOLES = (
    "perl -e 'open R, q(/dev/urandom); $n = shift; for (1 .. $n / 2.5) { read R, $r, 33280;"
    " print map { (substr $r, 512 * $_, 512) x 8 } 0 .. 64; seek STDOUT, 2621440 * $_, 0 }"
    " truncate STDOUT, 1048576 * $n'"
)
_MARK = "# other images\n"


@dataclass(frozen=True)
class Ballast:
    """``layers`` of so many MiB each.

    Files with ``holes`` are as long, and have a tenth of the bytes in 0.4 times the chunks: what
    knows holes skips the rest, and what does not reads zeros.
    """

    layers: int
    mib: int
    holes: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return self.layers * self.mib << 20

    def add(self, dockerfile: Path) -> None:
        """Write the stages into a Dockerfile. Raises PerfError when it has no place for them."""
        text = dockerfile.read_text()
        if _MARK not in text:
            raise PerfError(f"{dockerfile}: no line is {_MARK.strip()!r}")
        dockerfile.write_text(text.replace(_MARK, self._stages()))

    def _stages(self) -> str:
        fill = f"{_HOLES} {self.mib}" if self.holes else f"{FILL} {self.mib}"
        numbers = range(self.layers)
        stages = (f"FROM ${{BASE}} AS other-{n}\nRUN {fill} > /data  # {n}\n" for n in numbers)
        mounts = " ".join(f"--mount=from=other-{n},target=/other/{n}" for n in numbers)
        return "".join(stages) + f"FROM built AS {EVERYTHING}\nRUN {mounts} ls /other\n"


#: By the names of their scenarios. No machine here could hold the last one.
BALLAST = {
    "cache-0.1gb": Ballast(10, 10),
    "cache-1gb": Ballast(19, 50),
    "cache-10gb": Ballast(95, 100),
    "cache-100gb": Ballast(95, 1000, holes=True),
}
