"""Load: several requests in flight at once, each by a model of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Barrier

import pandas as pd
import pytest
import torch
from PIL import Image

import prunebench
from prunebench.benchmarks import Request
from prunebench.budget import Budget
from prunebench.cli import main
from prunebench.measure.load import ROUNDS, Client, replica, wave
from prunebench.measure.pairs import VARIANTS, Variant
from prunebench.measure.throughput import LoadRow, summarize_load
from prunebench.models.inputs import user_message
from prunebench.registry import build
from prunebench.run.backend import ModelSetup
from prunebench.run.bench import load
from prunebench.run.bencher import QUESTION
from prunebench.run.clients import Clients
from prunebench.run.keys import GridError
from prunebench.run.quality import Bound
from prunebench.run.samples import Samples, prepared
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.testbed.scenes import scene

QUICK = ["seconds=0", "pairs=2", "warmup=0", "new_tokens=2", "images=140x140", "budgets=0.5"]

SIZES = ((112, 224), (224, 112), (168, 168), (224, 224))
"""Of the pictures that clients send, so that no prompt could pass for another's."""


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return TransformersBackend.load(ModelSetup("tiny-qwen2.5-vl", threads=1))


@pytest.fixture(scope="module")
def prompts(backend: TransformersBackend) -> list[Samples]:
    """One prompt a client."""
    prompts = []
    for number, size in enumerate(SIZES):
        image = Image.fromarray(scene(3, number, size=(224, 224)).render()).resize(size)
        question = f"{QUESTION} {'And what else? ' * number}"
        request = Request(str(number), number, question, "", {}, ())
        prompts.append(prepared(backend.loaded, [request], [user_message(image, question)]))
    return prompts


def together(clients: list[Client]) -> list[list[torch.Tensor]]:
    """Logits of every client's prompt, three times over, while the others are at theirs."""
    start = Barrier(len(clients))

    def ask(client: Client) -> list[torch.Tensor]:
        with client.opened():
            start.wait()
            return [client.model(**client.inputs).logits for _ in range(3)]

    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(ask, clients))


@pytest.mark.parametrize("method", ["divprune", "fastv", "visionzip", "sparsevlm", "cdpruner"])
def test_requests_in_flight_together_get_what_they_get_alone(
    backend: TransformersBackend, prompts: list[Samples], method: str
) -> None:
    pruner = build(method)
    bound = Bound(pruner, backend.ready(pruner), Budget.parse("0.25"), seed=0)
    clients = Clients(backend).pruned(bound, prompts)
    answers = together(clients)
    for samples, answers_of_client in zip(prompts, answers, strict=True):
        (alone,) = together(Clients(backend).pruned(bound, [samples]))
        for logits in answers_of_client:
            assert torch.equal(logits, alone[0])


def test_so_do_those_of_the_unpruned_model(
    backend: TransformersBackend, prompts: list[Samples]
) -> None:
    answers = together(Clients(backend).plain(prompts))
    for samples, answers_of_client in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            alone = backend.loaded.model(**samples.inputs).logits
        for logits in answers_of_client:
            assert torch.equal(logits, alone)


def test_a_replica_shares_weights_and_nothing_that_a_call_leaves(
    backend: TransformersBackend, prompts: list[Samples]
) -> None:
    model = backend.loaded.model
    with prunebench.prune(model, "divprune", 0.5):
        twin = replica(model)
    both = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in both)
    before = model.model.rope_deltas
    twin.model.rope_deltas = torch.full((1, 1), 1000)
    assert model.model.rope_deltas is before
    # made inside a block, it is not pruned
    with torch.inference_mode():
        plain = model(**prompts[0].inputs).logits
        assert torch.equal(twin(**prompts[0].inputs).logits, plain)


def test_what_a_client_stumbles_over_ends_the_run(
    backend: TransformersBackend, prompts: list[Samples]
) -> None:
    """The others, which wait for it, go home."""

    @contextmanager
    def broken() -> Iterator[None]:
        raise KeyError("no session")
        yield

    good = [Client(backend.loaded.model, samples.inputs, nullcontext) for samples in prompts[:2]]
    with pytest.raises(KeyError, match="no session"):
        wave([*good, Client(backend.loaded.model, prompts[2].inputs, broken)], new_tokens=2)


def test_throughput_by_hand() -> None:
    """Two clients of two requests; of the method all is answered after 2 s, of the unpruned model
    after 4 s, and in the second pair after 8 s.
    """
    rows = []
    seconds: dict[Variant, tuple[int, int]] = {"method": (2, 2), "baseline": (4, 8)}
    for variant in VARIANTS:
        for pair, whole in enumerate(seconds[variant]):
            for client in (0, 1):
                half = 500.0 * whole
                rows.append(LoadRow(pair, 0, variant, client, 0, 0.0, half))
                rows.append(LoadRow(pair, 0, variant, client, 1, half, half))
    metrics = {one.metric: one.value for one in summarize_load(rows, batch=3, new_tokens=5)}
    assert metrics["requests_per_s"] == 3 * 4 / 2
    assert metrics["requests_per_s_baseline"] == 3 * (4 / 4 + 4 / 8) / 2
    assert metrics["requests_per_s_ratio"] == (2 + 4) / 2
    assert metrics["tokens_per_s"] == 5 * 3 * 4 / 2
    assert (metrics["latency_p95_ms"], metrics["latency_p95_baseline_ms"]) == (1000, 4000)


def test_a_bench_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["methods=divprune,resize", "concurrent=1,3", "batches=2", f"out={tmp_path}"]
    assert main(["bench", *QUICK, *words]) == 0
    table = pd.read_csv(tmp_path / "bench.csv")
    assert set(table["status"]) == {"ok"}
    alone, crowd = (table[table["concurrent"] == count].set_index("method") for count in (1, 3))
    assert list(alone.index) == list(crowd.index)
    # phases have times of their own where nobody shares the device
    assert alone[["latency_prefill_ms", "latency_rest_ms"]].notna().all(axis=None)
    assert crowd[["latency_prefill_ms", "latency_rest_ms"]].isna().all(axis=None)
    shared = ["latency_total_ms", "latency_total_ratio", "latency_p95_ms", "requests_per_s_ratio"]
    for rows in (alone, crowd):
        assert rows[[*shared, "peak_memory_mib", "tokens_per_s"]].gt(0).all(axis=None)
        assert (rows["tokens_per_s"] / rows["requests_per_s"]).tolist() == pytest.approx(
            [2] * len(rows)
        )
    assert crowd["tokens_mean"].tolist() == alone["tokens_mean"].tolist()
    requests = pd.read_parquet(tmp_path / "requests.parquet")
    counts = requests.groupby(["method", "pair", "variant"]).size()
    assert set(counts) == {3 * ROUNDS}
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    assert set(pairs["concurrent"]) == {"1"}
    # one call after the other: what a second holds is how often the call fits into it
    totals = pairs[(pairs["phase"] == "total") & (pairs["variant"] == "method")]
    rates = (2 * 1e3 / totals["ms"]).groupby(totals["method"]).median()
    assert rates.to_dict() == pytest.approx(alone["requests_per_s"].to_dict())
    said = capsys.readouterr().out
    assert "divprune 0.5, 140x140, batch 2, 3 requests at once: 12 of 25 tokens, " in said


def test_requests_of_a_client_follow_each_other_and_clients_overlap(tmp_path: Path) -> None:
    assert main(["bench", *QUICK, "methods=random", "concurrent=2", f"out={tmp_path}"]) == 0
    requests = pd.read_parquet(tmp_path / "requests.parquet")
    requests["answered"] = requests["sent_ms"] + requests["ms"]
    for _, run in requests.groupby(["method", "pair", "variant"]):
        first, second = (of_client.sort_values("request") for _, of_client in run.groupby("client"))
        for rows in (first, second):
            assert (rows["sent_ms"].to_numpy()[1:] >= rows["answered"].to_numpy()[:-1]).all()
        assert first["sent_ms"].min() < second["answered"].max()
        assert second["sent_ms"].min() < first["answered"].max()


def test_a_table_of_old_speaks_of_single_requests(tmp_path: Path) -> None:
    words = [*QUICK, "methods=random", f"out={tmp_path}"]
    main(["bench", *words])
    path = tmp_path / "bench.csv"
    old = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="concurrent")
    old.to_csv(path, index=False)
    main(["bench", *words, "concurrent=1,2"])
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    again = table[table["concurrent"] == "1"]
    assert again["latency_total_ms"].tolist() == old["latency_total_ms"].tolist()
    assert len(table) == 2 * len(old)


def test_no_request_at_all_is_refused() -> None:
    with pytest.raises(GridError, match="concurrent has 0; it takes numbers from 1 to 256"):
        load(["concurrent=0"])
