"""The pruning commands end to end on a tiny model with a tokenizer: prune, inspect, verify, export, sensitivity."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from tiny_models import tiny_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from owled_ros.commands import inspect as inspect_command
from owled_ros.commands import prune as prune_command
from owled_ros.commands import search_metric as search_command
from owled_ros.commands import search_plan as plan_command
from owled_ros.commands import sensitivity as sensitivity_command
from owled_ros.errors import OwledError
from owled_ros.evaluation.running_cost import table_of
from owled_ros.models.manifest import read_manifest, verify

LETTERS = "abcdefghijklmnopqrstuvwxyz "


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    found = typer.Typer()
    prune_command.register(found)
    sensitivity_command.register(found)
    search_command.register(found)
    plan_command.register(found)
    inspect_command.register(found)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA that reads letters, and driving text for it."""
    place = tmp_path_factory.mktemp("commands")
    tiny_model("llama").save_pretrained(place / "model")
    vocabulary = {"<pad>": 0, "<unk>": 3} | {letter: 10 + index for index, letter in enumerate(LETTERS)}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        place / "model"
    )
    lines = [
        json.dumps({"text": f"a car ahead brakes so slow down {word}"})
        for word in ("now", "soon", "early", "late", "again")
    ]
    (place / "drive.jsonl").write_text("\n".join(lines))
    return place


def _run(app: typer.Typer, *words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def check_costs(artifact: Path, dense: Path) -> None:
    """The table at the end is in the manifest: measured in processes of their own, and packed because the model can be."""
    costs = table_of(read_manifest(artifact).cost or {})
    rows = {row.name: row for row in costs.rows}
    assert list(rows) == ["dense", "pruned", "packed"]
    assert [row.note for row in rows.values()] == ["", "", ""]
    assert rows["dense"].disk_bytes == (dense / "model.safetensors").stat().st_size
    assert rows["packed"].disk_bytes == (artifact / "packed.owled").stat().st_size
    for row in rows.values():
        assert row.token_ms is not None
        assert row.token_ms > 0
        assert row.action_ms is None, "a language model has no camera"
        assert (row.resident_bytes or 0) > (row.library_bytes or 0) > 50_000_000


def test_prune_inspect_verify_export(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    options = [
        "--driving-text",
        place / "drive.jsonl",
        "--samples",
        8,
        "--tokens",
        16,
        "--allocation",
        "owl",
        "--seed",
        3,
    ]
    output = _run(app, "prune", place / "model", tmp_path / "out", "--sparsity", 0.5, "--refine", 2, *options)
    assert "50.0000%" in output
    assert output.count("camera to action") == 1
    check_costs(tmp_path / "out", place / "model")
    manifest = verify(tmp_path / "out")
    assert [entry["kind"] for entry in manifest.calibration] == ["driving_text"]  # 30 words: no general text for them
    assert set(manifest.quality) == {"dense", "pruned"}
    assert manifest.method.settings["refine_steps"] == 2
    assert "model.layers.1" in _run(app, "inspect", tmp_path / "out", "--plot", tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").stat().st_size > 1000
    assert "is whole" in " ".join(_run(app, "verify", tmp_path / "out").split())
    _run(app, "export", tmp_path / "out", tmp_path / "plain")
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()
    assert (tmp_path / "plain" / "tokenizer.json").is_file()


def _by_wanda(place: Path) -> list[object]:
    """Return the options of a quick run on the driving text."""
    return ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16, "--score", "wanda"]


def test_another_allocation_and_zeros_by_row(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    options = [*_by_wanda(place), "--rows", "trim"]
    options += ["--allocation", "dlp", "--lambda", 0.1, "--with-uniform", "--no-cost", "--no-pack", "--reconstruct", 2]
    _run(app, "prune", place / "model", tmp_path / "out", *options)
    method = read_manifest(tmp_path / "out").method
    assert (method.allocation, method.owl_lambda, method.settings["rows"]) == ("dlp", 0.1, "trim")
    assert method.settings["reconstruct_steps"] == 2
    even = read_manifest(tmp_path / "out-uniform").method
    assert (even.allocation, even.settings["rows"]) == ("uniform", "even")


SEARCH = ("--samples", 8, "--tokens", 16, "--population", 4, "--evaluations", 10, "--seed", 5)


def test_a_search_run_twice_or_in_parts_gives_the_same_metric(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    options = ["--driving-text", place / "drive.jsonl", *SEARCH]
    assert "10 trees tried" in " ".join(
        _run(app, "search-metric", place / "model", tmp_path / "a" / "m.json", *options).split()
    )
    _run(app, "search-metric", place / "model", tmp_path / "b" / "m.json", *options)
    for part in (4, 8):
        with pytest.raises(OwledError, match=f"paused after {part} of 10 evaluations.*goes on"):
            _run(app, "search-metric", place / "model", tmp_path / "c" / "m.json", *options, "--pause-after", 1e-9)
        assert [path.name for path in (tmp_path / "c").iterdir()] == [".m.json.searching"]
    _run(app, "search-metric", place / "model", tmp_path / "c" / "m.json", *options, "--pause-after", 1e-9)
    written = {name: (tmp_path / name / "m.json").read_bytes() for name in "abc"}
    assert written["a"] == written["b"] == written["c"]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["m.json"]
    content = json.loads(written["a"])
    assert set(content["known"]) == {"magnitude", "wanda", "pruner-zero"}
    assert content["loss"] <= min(content["known"].values())
    assert content["evaluations"] == 10
    options = ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16, "--no-cost", "--no-pack"]
    _run(app, "prune", place / "model", tmp_path / "out", "--metric", tmp_path / "a" / "m.json", *options)
    method = read_manifest(tmp_path / "out").method
    assert (method.score, method.settings["metric"]) == ("metric", content["metric"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m.json", "--minutes", 0], "no time for a search"),
        (["m.json", "--minutes", 1e-9], "less than a first generation of 16"),
        (["m.json", "--evaluations", 8], "less than a first generation of 16"),
        (["m.json", "--sparsity", 60], r"for 60 % give 0\.6"),
        (["m.json", "--component", "wheels"], "unknown component"),
        (["m.json", "--component", "vision"], "no component vision"),
        (["m"], r"ends in \.json"),
    ],
)
def test_what_is_wrong_with_a_search_is_said(
    words: list[object], message: str, app: typer.Typer, place: Path, tmp_path: Path
) -> None:
    options = ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16]
    with pytest.raises(OwledError, match=message):
        _run(app, "search-metric", place / "model", tmp_path / str(words[0]), *words[1:], *options)
    assert not list(tmp_path.iterdir())


def test_zeros_are_spread_evenly_where_drift_is_corrected_and_as_learned_elsewhere(
    app: typer.Typer, place: Path, tmp_path: Path
) -> None:
    options = ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16, "--no-cost", "--no-pack"]
    told = _run(app, "prune", place / "model", tmp_path / "even", *options, "--with-uniform")
    assert "spread evenly already" in " ".join(told.split())
    assert [path.name for path in tmp_path.iterdir()] == ["even"]
    assert read_manifest(tmp_path / "even").method.allocation == "uniform"
    for words in (["--score", "wanda"], ["--keep-drift"]):
        _run(app, "prune", place / "model", tmp_path / words[-1], *options, *words)
        assert read_manifest(tmp_path / words[-1]).method.allocation == "learned"


@pytest.mark.parametrize(
    ("words", "sparsity"),
    [(["--bits", 2], 0), (["--bits", 4], 0.6), (["--bits", 2, "--allocation", "block0"], 0.6), (["--budget", "language=0.3", "--bits", 3], 0.6)],
)  # fmt: skip
def test_no_weight_is_pruned_where_zeros_save_nothing_unless_zeros_are_asked_for(
    words: list[object], sparsity: float, app: typer.Typer, place: Path, tmp_path: Path
) -> None:
    options = ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16, "--no-cost", "--no-pack"]
    _run(app, "prune", place / "model", tmp_path / "out", *options, "--group-size", 32, *words)
    assert read_manifest(tmp_path / "out").method.settings["sparsity"] == sparsity


def test_a_plan_is_searched_in_parts_and_pruned_by(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    options = ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16]
    search = [
        *options,
        "--evaluations",
        4,
        "--seed",
        5,
        "--allocation",
        "block0",
        "--allocation",
        "owl",
        "--sparsity",
        0.5,
    ]
    assert "4 plans tried" in " ".join(
        _run(app, "search-plan", place / "model", tmp_path / "a" / "p.json", *search).split()
    )
    for part in (1, 2, 3):
        with pytest.raises(OwledError, match=f"paused after {part} of 4 evaluations.*no plan yet"):
            _run(app, "search-plan", place / "model", tmp_path / "b" / "p.json", *search, "--pause-after", 1e-9)
        assert [path.name for path in (tmp_path / "b").iterdir()] == [".p.json.searching"]
    _run(app, "search-plan", place / "model", tmp_path / "b" / "p.json", *search, "--pause-after", 1e-9)
    assert (tmp_path / "a" / "p.json").read_bytes() == (tmp_path / "b" / "p.json").read_bytes()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["p.json"]
    content = json.loads((tmp_path / "a" / "p.json").read_text())
    assert content["loss"] <= content["first_stage_loss"] <= content["default_loss"]
    plain = ["--plan", tmp_path / "a" / "p.json", *options, "--seed", 5, "--no-cost", "--no-pack"]
    _run(app, "prune", place / "model", tmp_path / "out", *plain)
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.method.allocation, manifest.method.score) == ("plan", content["settings"]["score"])
    assert manifest.method.settings["refine_steps"] == content["settings"]["refine"]
    assert manifest.sparsity == 0.5
    assert manifest.quality["pruned"]["loss"] == pytest.approx(content["loss"], abs=2e-5)
    _run(
        app,
        "prune",
        place / "model",
        tmp_path / "more",
        *plain,
        "--sparsity",
        0.75,
        "--score",
        "magnitude",
        "--refine",
        0,
    )
    method = read_manifest(tmp_path / "more").method
    assert (read_manifest(tmp_path / "more").sparsity, method.score) == (0.75, "magnitude")
    with pytest.raises(OwledError, match="leave out --allocation owl"):
        _run(app, "prune", place / "model", tmp_path / "none", *plain, "--allocation", "owl")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["p.json", "--evaluations", 3], "too few for two stages"),
        (["p.json", "--sparsity", 60], r"for 60 % give 0\.6"),
        (["p.json", "--allocation", "wheels"], "unknown allocation"),
        (["p.json", "--metric", "abs(Q)"], "not Q"),
        (["p.json", "--bits", 3], "with 3 bits zeros save no bytes"),
        (["p.json", "--driving-text", "/nowhere.jsonl"], "cannot be read"),
        (["p"], r"ends in \.json"),
    ],
)
def test_what_is_wrong_with_a_plan_search_is_said(
    words: list[object], message: str, app: typer.Typer, place: Path, tmp_path: Path
) -> None:
    options = ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16]
    with pytest.raises(OwledError, match=message):
        _run(app, "search-plan", place / "model", tmp_path / str(words[0]), *options, *words[1:])
    assert not list(tmp_path.iterdir())


def test_a_search_that_cannot_keep_its_state_says_so(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = ["--driving-text", place / "drive.jsonl", *SEARCH]
    with pytest.raises(OwledError, match="cannot keep the state"):
        _run(app, "search-metric", place / "model", tmp_path / "file" / "m.json", *options)


def test_sensitivity(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    options = ["--driving-text", place / "drive.jsonl", "--samples", 8, "--tokens", 16]
    assert "language" in _run(app, "sensitivity", place / "model", "--out", tmp_path, "--sparsity", 0.6, *options)
    found = json.loads((tmp_path / "sensitivity.json").read_text())
    assert found["budget"]["language"] == pytest.approx(0.6, abs=1e-9)
    assert (tmp_path / "sensitivity.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--general-text", ""], "nothing to calibrate on"),
        (["--budget", "vision"], "not of the form"),
        (["--driving-text", "/nowhere.jsonl"], "cannot be read"),
        (["--sparsity", "1.2"], "inside"),
        (["--rows", "trim"], "over all rows"),
        (["--metric", "abs(Q)"], "not Q"),
        (["--metric", "/nowhere.json"], "there is no metric"),
        (["--score", "metric"], "go together"),
        (["--score", "stbllm"], "needs a pattern"),
        (["--score", "stbllm", "--pattern", "4:8", "--sparsity", "0.5", "--regions", "2"], "regions are 1 or 3"),
        (["--score", "wanda", "--metric", "W"], "go together"),
        (["--allocation", "atp", "--lambda", "0.6"], r"lambda is 0\.6"),
        (["--sparsity", "60.0"], r"the sparsity is 60: .*for 60 % give 0\.6"),
        (["--budget", "vision=40"], r"the sparsity of vision is 40: .*give 0\.4"),
        ([], "vocabulary has 29 words.*--general-text FILE"),
        (["--device", "gpu"], "device 'gpu'"),
        (["--general-text", "/nowhere.txt"], "cannot be read as general text"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], message: str, app: typer.Typer, place: Path, tmp_path: Path) -> None:
    with pytest.raises(OwledError, match=message):
        _run(app, "prune", place / "model", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 1, is a list"),
        ('{"messages": [{"role": "user"}]}', "no dialogue.*content"),
        ('{"qa": [{"question": "?"}]}', "no dialogue"),
        ('{"messages": "hello"}', "no dialogue"),
        ("{}", "has no text, messages"),
        ("<html>", "one JSON object per line"),
    ],
)
def test_driving_text_that_is_none(line: str, message: str, app: typer.Typer, place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(OwledError, match=message):
        _run(app, "prune", place / "model", tmp_path / "out", "--driving-text", tmp_path / "bad.jsonl")


def test_a_template_that_raises_is_a_sentence(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(place / "model", tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{{ raise_exception('only roles that I know') }}")
    (tmp_path / "drive.jsonl").write_text('{"messages": [{"role": "user", "content": "go"}]}')
    with pytest.raises(OwledError, match=r"chat template.*only roles that I know"):
        _run(app, "prune", model, tmp_path / "out", "--driving-text", tmp_path / "drive.jsonl")


def test_general_text_of_ones_own_is_always_used(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(["the road is long and the car is slow today"] * 6))
    options = ["--samples", 4, "--tokens", 16, "--general-text", tmp_path / "text.txt", "--allocation", "uniform"]
    options += ["--no-cost"]
    _run(app, "prune", place / "model", tmp_path / "out", "--score", "wanda", *options)
    assert [entry["kind"] for entry in read_manifest(tmp_path / "out").calibration] == ["general_text"]
    drive = ["--driving-text", place / "drive.jsonl"]
    _run(app, "prune", place / "model", tmp_path / "out", "--score", "wanda", *options, *drive)
    assert {e["kind"]: e["samples"] for e in read_manifest(tmp_path / "out").calibration} == {
        "driving_text": 3, "general_text": 1
    }  # fmt: skip
    with pytest.raises(OwledError, match="would not be used"):
        _run(app, "prune", place / "model", tmp_path / "out", *options, *drive, "--general-share", 0)


def test_a_later_run_replaces_the_artifact_whole(app: typer.Typer, place: Path, tmp_path: Path) -> None:
    options = [*_by_wanda(place), "--allocation", "uniform", "--no-cost", "--no-pack"]
    for sparsity in (0.4, 0.6):
        _run(app, "prune", place / "model", tmp_path / "out", "--sparsity", sparsity, *options)
        assert read_manifest(tmp_path / "out").sparsity == pytest.approx(sparsity, abs=1e-4)
    verify(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
