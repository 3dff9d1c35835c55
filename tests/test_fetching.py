"""What a hub may do to a sweep: ask for a login, fail, go down, be slow, or not be asked at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hub import Faults, Hub, Server
from hub.hub import PRUNEBENCH

LLAVA = "llava-hf/llava-1.5-7b-hf"
POPE = "lmms-lab-encoder/POPE"
WORDS = ("methods=none", "tasks=pope", "controls=false", "cost=false", "limit=2", "out=study")


@pytest.fixture(scope="module")
def small(hub: Hub) -> Hub:
    """A hub with one model and one data set."""
    hub.provide(LLAVA, POPE)
    return hub


def sweep(
    hub: Hub, server: Server, folder: Path, model: str = LLAVA, **options: str | None
) -> subprocess.CompletedProcess[str]:
    """A sweep whose caches lie in the folder."""
    words = [*PRUNEBENCH, "sweep", f"models={model}", *WORDS]
    return hub.run(words, folder, server, home=folder / "home", **options)  # type: ignore[arg-type]


def refused(process: subprocess.CompletedProcess[str], folder: Path) -> str:
    """The one line that a sweep ends in before any work."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    assert not (folder / "study").exists()
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith("prunebench: error: ")
    return last


@pytest.mark.slow
def test_data_behind_a_gate_are_named_before_any_work(small: Hub, tmp_path: Path) -> None:
    with Server(small.root, Faults(gates={POPE: frozenset(["hf_friend"])})) as server:
        words = refused(sweep(small, server, tmp_path, token=None), tmp_path)
        assert f"task pope: its data set {POPE} is gated; accept its terms at " in words
        assert "then `hf auth login`" in words
        assert not any("safetensors" in line for line in server.log)


@pytest.mark.slow
def test_a_login_that_may_not_read_is_told_where_to_ask(small: Hub, tmp_path: Path) -> None:
    gates = {POPE: frozenset(["hf_friend"]), LLAVA: frozenset(["hf_friend"])}
    with Server(small.root, Faults(gates=gates)) as server:
        words = refused(sweep(small, server, tmp_path), tmp_path)
        assert f"model {LLAVA}" in words
        assert f"may not be read by this login; accept its terms at {server.url}/{LLAVA}" in words
        words = refused(sweep(small, server, tmp_path, token=None), tmp_path)
        assert f"{LLAVA} is gated; accept its terms at {server.url}/{LLAVA}" in words
        assert sweep(small, server, tmp_path, token="hf_friend").returncode == 0


@pytest.mark.slow
def test_open_data_need_no_login(small: Hub, server: Server, tmp_path: Path) -> None:
    process = sweep(small, server, tmp_path, token=None)
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_what_there_is_not_is_told_from_what_is_hidden(
    small: Hub, server: Server, tmp_path: Path
) -> None:
    words = refused(sweep(small, server, tmp_path, model="no/model"), tmp_path)
    assert "no/model is not known to the hub, or hidden from this login" in words
    words = refused(sweep(small, server, tmp_path, model="no/model", token=None), tmp_path)
    assert "no/model is not known to the hub, or asks for a login" in words


@pytest.mark.slow
def test_offline_is_enough_once_everything_is_there(small: Hub, tmp_path: Path) -> None:
    with Server(small.root) as server:
        words = refused(sweep(small, server, tmp_path, HF_HUB_OFFLINE="1"), tmp_path)
        assert f"{LLAVA} is not in the local cache, and HF_HUB_OFFLINE is set" in words
        online = sweep(small, server, tmp_path)
        assert online.returncode == 0, online.stderr
        count = len(server.log)
        (tmp_path / "study").rename(tmp_path / "online")
        offline = sweep(small, server, tmp_path, HF_HUB_OFFLINE="1")
        assert offline.returncode == 0, offline.stderr
        assert len(server.log) == count
    tables = [next((tmp_path / name).rglob("metrics.csv")) for name in ("online", "study")]
    one, other = [table.read_text() for table in tables]
    assert one == other
    # nobody listens any more, and nobody says so
    (tmp_path / "study").rename(tmp_path / "offline")
    alone = sweep(small, server, tmp_path)
    assert alone.returncode == 0, alone.stderr


@pytest.mark.slow
def test_a_hub_that_fails_for_a_moment_is_asked_again(small: Hub, tmp_path: Path) -> None:
    faults = Faults(failing=r"/(api/)?datasets/|safetensors", times=2)
    with Server(small.root, faults) as server:
        process = sweep(small, server, tmp_path)
    assert process.returncode == 0, process.stderr
    assert sum(line.endswith(" 503") for line in server.log) == 2


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["/datasets/", "safetensors", "/api/"])
def test_a_hub_that_fails_for_good_is_left_after_a_while(
    small: Hub, tmp_path: Path, failing: str
) -> None:
    with Server(small.root, Faults(failing=failing)) as server:
        words = refused(sweep(small, server, tmp_path, seconds=300), tmp_path)  # type: ignore[arg-type]
    assert "could not be fetched" in words
    assert failing == "safetensors" or "503" in words
    assert len(server.log) < 60


@pytest.mark.slow
@pytest.mark.parametrize("requests", [0, 3, 12, 20, 26])
def test_a_hub_that_goes_down_midway_leaves_what_the_next_run_needs(
    small: Hub, tmp_path: Path, requests: int
) -> None:
    with Server(small.root, Faults(requests=requests)) as server:
        words = refused(sweep(small, server, tmp_path), tmp_path)
    assert "could not be fetched" in words
    with Server(small.root) as server:
        process = sweep(small, server, tmp_path)
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_a_slow_hub_is_waited_for(small: Hub, tmp_path: Path) -> None:
    with Server(small.root, Faults(delay_s=1.5)) as server:
        process = sweep(small, server, tmp_path)
    assert process.returncode == 0, process.stderr
