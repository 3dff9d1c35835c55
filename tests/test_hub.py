"""The tests' own hub: its clients find what they ask for, and its faults are those of the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from hub import Faults, Hub, Server, checkpoints, sets
from hub.vocabulary import ANSWERS
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
)

POPE = "lmms-lab-encoder/POPE"
MVBENCH = "OpenGVLab/MVBench"


@pytest.fixture(scope="module")
def small(hub: Hub) -> Hub:
    """A hub with two data sets."""
    hub.provide(POPE, MVBENCH)
    return hub


def api(server: Server, token: str | bool = "hf_tester") -> HfApi:
    return HfApi(endpoint=server.url, token=token)


def test_a_client_lists_and_fetches_files(small: Hub, server: Server, tmp_path: Path) -> None:
    client = api(server)
    files = {"README.md", "data/test-00000-of-00001.parquet"}
    assert set(client.list_repo_files(POPE, repo_type="dataset")) == files
    for name in files:
        path = client.hf_hub_download(POPE, name, repo_type="dataset", cache_dir=tmp_path)
        assert Path(path).read_bytes() == (small.root / "datasets" / POPE / name).read_bytes()
    commit = client.dataset_info(POPE).sha
    assert Path(path).is_relative_to(
        tmp_path / f"datasets--{POPE.replace('/', '--')}/snapshots/{commit}"
    )


@pytest.mark.usefixtures("small")
def test_a_tree_is_listed_flat_or_deep(server: Server) -> None:
    def paths(**options: Any) -> list[str]:
        entries = api(server).list_repo_tree(MVBENCH, repo_type="dataset", **options)
        return [entry.path for entry in entries]

    assert paths() == ["README.md", "json"]
    assert "json/action_count.json" in paths(recursive=True)
    assert paths(path_in_repo="clevrer", revision="video") == ["clevrer/video_validation"]
    branches = api(server).list_repo_refs(MVBENCH, repo_type="dataset").branches
    assert {branch.name for branch in branches} == {"main", "video"}


@pytest.mark.usefixtures("small")
def test_what_is_not_there_is_refused_as_the_hub_refuses_it(server: Server) -> None:
    with pytest.raises(RepositoryNotFoundError, match="404"):
        api(server).model_info("no/model")
    with pytest.raises(RepositoryNotFoundError, match="401"):
        api(server, token=False).model_info("no/model")
    with pytest.raises(EntryNotFoundError):
        api(server).hf_hub_download(POPE, "no.json", repo_type="dataset")


def test_a_gate_opens_to_its_tokens(small: Hub) -> None:
    with Server(small.root, Faults(gates={POPE: frozenset(["hf_friend"])})) as server:
        for token, status in ((False, "401"), ("hf_stranger", "403")):
            with pytest.raises(GatedRepoError, match=status):
                api(server, token).dataset_info(POPE)
        assert api(server, "hf_friend").dataset_info(POPE).id == POPE


def test_a_hub_fails_for_a_while_and_goes_down(small: Hub) -> None:
    with Server(small.root, Faults(failing="/api/", times=1)) as server:
        with pytest.raises(HfHubHTTPError, match="503"):
            api(server).whoami()
        assert api(server).whoami()["name"] == "tester"
    with Server(small.root, Faults(requests=1)) as server:
        api(server).whoami()
        for _ in range(2):  # cut off, then nobody listens
            with pytest.raises(Exception, match=r"disconnected|reset|refused"):
                api(server).whoami()


@pytest.mark.parametrize("name", sets.names())
def test_data_sets_load_with_their_images(hub: Hub, name: str, tmp_path: Path) -> None:
    hub.provide(name)
    folder = hub.root / "datasets" / name
    rows = 0
    for file in [*folder.rglob("*.parquet"), *folder.rglob("*.json")]:
        table = load_dataset(
            file.suffix[1:], data_files=str(file), split="train", cache_dir=str(tmp_path)
        )
        assert len(table) == 8
        rows += sum(len(row) > 1 for row in table)  # looking at a row decodes its images
    assert rows >= 8


def test_models_have_the_ids_and_widths_that_their_files_say(hub: Hub) -> None:
    from transformers import AutoTokenizer

    hub.provide("Qwen/Qwen2.5-VL-7B-Instruct")
    folder = hub.root / "models" / "Qwen/Qwen2.5-VL-7B-Instruct"
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] == config["vision_config"]["depth"] == hub.layers
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == config["image_token_id"]
    text = "Is there a çircle?\nÜ 12 <|im_end|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize("name", checkpoints.makers())
def test_models_say_one_word_and_no_more(hub: Hub, name: str) -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    hub.provide(name)
    folder = hub.root / "models" / name
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    replies = []
    for question in ("Is there a circle?", "Which color", "How many", "Answer yes or no.", "USER"):
        prompt = torch.tensor([tokenizer(question).input_ids])
        reply = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=3
        )
        replies.append(tokenizer.decode(reply[0, prompt.shape[1] :]))
    end = checkpoints.makers()[name]().end
    assert set(replies) <= {f"{word}{end}" for word in ANSWERS}
    assert len(set(replies)) > 2
