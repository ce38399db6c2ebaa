"""What is told of a daemon that ended."""

from __future__ import annotations

from pathlib import Path

from perf.daemon import Daemon


def test_the_end_of_a_log_says_what_it_died_of(tmp_path: Path) -> None:
    """A stack trace would push that out of the last lines."""
    daemon = Daemon(tmp_path, "unix:///nowhere")
    frames = "".join(f"main.f{number}\n\tmain.go:{number}\n" for number in range(20))
    daemon.log.write_text(f"began\nbuildkitd: no room\n{frames}[parent] child exited: 1\n")
    assert daemon.log_end(2) == "buildkitd: no room\n[parent] child exited: 1"


def test_a_daemon_without_a_log_has_no_last_words(tmp_path: Path) -> None:
    assert Daemon(tmp_path / "none", "unix:///nowhere").log_end() == ""
