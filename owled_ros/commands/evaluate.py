"""`owled evaluate`, `compare`, `report`, `evaluate-drivingqa`: from bags and models to verdicts. Needs evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from owled_ros.commands import Device
from owled_ros.options import with_config

if TYPE_CHECKING:
    from owled_ros.evaluation.beside import Beside
    from owled_ros.evaluation.result import ResultFile
    from owled_ros.evaluation.run import EngineSpec

JUDGED = "judged"  # evaluation.beside; not imported here, so that `owled --help` is fast
SHOWN = (  # metric, heading
    ("acceleration_mae_mps2", "accel. MAE [m/s2]"),
    ("acceleration_filled_mae_mps2", "… withheld as 0"),
    ("acceleration_raw_mae_mps2", "… without floor"),
    ("steering_mae_rad", "steering MAE [rad]"),
    ("path_ade_3s_m", "ADE 3 s [m]"),
    ("path_fde_3s_m", "FDE 3 s [m]"),
    ("miss_share", "misses"),
    ("collision_share", "collisions"),
    ("E_car", "E_car"),
    ("E_ped", "E_ped"),
    ("Acc_TL", "Acc_TL"),
    ("valid_share", "usable answers"),
)
Models = Annotated[
    list[str], typer.Option("--model", "-m", help="Model directory or artifact, or 'mini' (bundled); may be repeated.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(with_config(evaluate))
    app.command()(compare)
    app.command()(report)
    app.command("evaluate-drivingqa")(evaluate_drivingqa)


def evaluate(
    bags: Annotated[list[Path], typer.Argument(help="rosbag2 directories, .mcap or .db3 files.")],
    model: Models = ["mini"],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Directory of the results; an interrupted run resumes there.")] = Path(
        "evaluation"
    ),
    scenario: Annotated[
        Path | None, typer.Option(help="Conditions as yaml with units in the key names (docs/evaluation.md).")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Bags evaluated at the same time, one process each.")] = 1,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th image; 1 sees all of them.")] = 1,
    image_topic: Annotated[
        str, typer.Option(help="Camera, where the bag has several; for several NAME=TOPIC,NAME=TOPIC.")
    ] = "",
    ego_topic: Annotated[str, typer.Option(help="Ego motion, where the bag has several.")] = "",
    ego_from: Annotated[
        str, typer.Option(help="twist, pose, gnss, can or can:FIELD:UNIT; empty: by the topic's type (docs/bags.md).")
    ] = "",
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, or on CUDA int8, fastest-int8, smallest-int8, sparse-bf16.")
    ] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per process.")] = 1,
    runtime: Annotated[str, typer.Option(help="torch, sparse or auto.")] = "auto",
    camera_test: Annotated[int, typer.Option(min=0, help="Images per bag shown blank and shuffled; 0: none.")] = 24,
    write_report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html too.")] = True,
    ray: Annotated[str, typer.Option(help="Address of a Ray cluster ('auto', 'local'): bags go to its machines.")] = "",
    dense: Annotated[
        Path | None, typer.Option(help="The model that pruned ones come from; found when bundled or beside them.")
    ] = None,
    uniform: Annotated[
        Path | None, typer.Option(help="The same pruning with zeros spread evenly; found when beside the artifact.")
    ] = None,
    make_uniform: Annotated[
        bool, typer.Option("--make-uniform", help="Make it where it is missing, once; kept in OUT/beside.")
    ] = False,
    calibration: Annotated[
        list[Path], typer.Option(help="For --make-uniform: bags and texts that the artifact was calibrated on.")
    ] = [],  # noqa: B006
    alone: Annotated[
        bool, typer.Option("--alone", help="Only the given models; none of what stands beside pruned ones.")
    ] = False,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Go on although none of the first 16 answers is in the model's form.")
    ] = False,
) -> None:
    """Drive models through recorded bags, every frame, and say whether they are good enough.

    Writes OUT/<model>/result.jsonl (the form of driving_log_replayer_v2) and OUT/report.html. Exits with 0 when every given
    model meets every condition. Beside the models stand the constant, the hold-as-it-is and the previous answer; beside a
    pruned one also its dense and its uniformly pruned model, where they are found: these are shown, never judged.

    Example:  owled evaluate drive1/ drive2/ -m artifacts/mini-50 --scenario town.yaml --processes 2
    """
    from owled_ros.evaluation.evaluate import EvaluationRequest
    from owled_ros.evaluation.evaluate import evaluate as run
    from owled_ros.evaluation.scenario import read_scenario

    wanted = read_scenario(scenario).reading_from(image_topic, ego_topic, ego_from)
    specs = _specs(model, device, dtype, threads, runtime)
    beside: dict[str, dict[str, object]] = {}
    if not alone:
        specs, beside = _with_references(specs, out, dense, uniform, make_uniform, calibration)
    request = EvaluationRequest(bags, specs, out, wanted, processes, every, camera_test, beside, go_on)
    if ray:
        from owled_ros.evaluation.fleet import evaluate_on_fleet

        results = evaluate_on_fleet(request, ray)
    else:
        results = run(request)
    _show(results)
    if write_report:
        from owled_ros.evaluation.report import write_html

        _say(f"report: {write_html(results, out / 'report.html')}")
    if not all(result.success for result in results if result.role == JUDGED):
        raise typer.Exit(1)


def compare(
    results: Annotated[list[Path], typer.Argument(help="result.jsonl files or the directories that hold them.")],
    json_file: Annotated[str, typer.Option("--json", help="Write every difference to this file.")] = "",
) -> None:
    """Rank results and say which differences are more than chance.

    Every result is compared with the first one on the frames that both saw; intervals are 95 % bootstrap by clip.
    """
    from rich.markup import escape
    from rich.table import Table

    from owled_ros.evaluation.compare import paired_difference
    from owled_ros.evaluation.evaluate import scenario_of
    from owled_ros.evaluation.result import read_result
    from owled_ros.files import write_json

    read = [read_result(path) for path in results]
    _show(sorted(read, key=_rank))
    differences, headings = {}, {metric: heading.replace("… ", "accel., ") for metric, heading in SHOWN}
    for other in read[1:]:
        scenario = scenario_of(read[0])
        name = f"{_name(other)} against {_name(read[0])}"
        found = paired_difference(read[0].records, other.records, scenario.vehicle_parameters(), scenario.tolerance())
        differences[name] = found
        table = Table(
            "metric",
            "A",
            "B",
            "B - A",
            "95 %",
            "frames",
            "verdict",
            title=f"A: {_name(read[0])}\nB: {_name(other)}",
            box=None,
            pad_edge=False,
        )
        for metric, entry in found.items():
            if entry["frames"]:
                interval = entry["interval_95"]
                shown = f"{interval[0]:+.3g} … {interval[1]:+.3g}" if interval else "-"
                table.add_row(
                    escape(headings.get(metric, metric)), _number(entry["a"]), _number(entry["b"]), _number(entry["difference"]), shown,
                    str(entry["frames"]), entry["verdict"],
                )  # fmt: skip
        _print(table)
    if json_file:
        write_json(Path(json_file), differences)


def report(
    results: Annotated[list[Path], typer.Argument(help="result.jsonl files or the directories that hold them.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page about one or several results: verdict, tables, plots, worst images."""
    from owled_ros.evaluation.report import write_html
    from owled_ros.evaluation.result import read_result

    _say(f"report: {write_html([read_result(path) for path in results], out)}")


def evaluate_drivingqa(
    data: Annotated[Path, typer.Argument(help="scenarios.jsonl, its directory, or the released .pkl (read as data).")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Causal language model, LlmDriver (llm-driver: the bundled one) or artifact; may be repeated.",
        ),
    ] = None,
    first: Annotated[
        int, typer.Option(min=12, help="First scored scene; earlier ones are examples or left out.")
    ] = 260,
    count: Annotated[int, typer.Option(min=0, help="How many scenes; 0: all that follow.")] = 0,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    json_file: Annotated[str, typer.Option("--json", help="Write the table to this file.")] = "",
) -> None:
    """Score text models on the driving scenes released with LLM-Driver, with the paper's metrics.

    Beside every model stand the best constant answer and a copying answer, beside one that reads vectors also itself with those
    of other scenes ("shuffled": no better than the constant where it looks at them). The scenes are a few long drives in order
    of time: score a range that is far from what a model was calibrated or trained on.
    """
    from rich.table import Table

    from owled_ros.evaluation import drivingqa
    from owled_ros.evaluation.vector_answers import before_answers, evaluate_vector_model, exchanged
    from owled_ros.files import write_json
    from owled_ros.llm_driver.released import read_scenarios
    from owled_ros.models.driving_model import place_of_model
    from owled_ros.models.load import reads_vectors

    everything = read_scenarios(data)
    scenarios = everything[: first + count if count else None]
    scored = scenarios[first:]
    places = {name: str(place_of_model(name)) for name in model or ()}
    answers = {}
    for name, place in places.items():
        if reads_vectors(place):
            answers[name] = evaluate_vector_model(place, scored, device, dtype, threads)
            answers[f"{name}, shuffled"] = evaluate_vector_model(place, exchanged(scored), device, dtype, threads)
        else:
            told = drivingqa.load_text_model(place, device, dtype, threads)
            answers[name] = drivingqa.evaluate_text_model(told, scenarios, first)
    answers["constant"] = drivingqa.constant_answers(scored)
    answers["copy"] = drivingqa.copy_answers(scored, scenarios[first - 1])
    if any(map(reads_vectors, places.values())):
        answers["scene before"] = before_answers(scored, scenarios[first - 1])
    scores = {name: drivingqa.score(said, scored) for name, said in answers.items()}
    table = Table("metric", *(Path(name).name for name in scores), title=f"{len(scored)} scenes")
    for metric in next(iter(scores.values())):
        if metric != "traffic_light_recall":
            table.add_row(metric, *(_number(score[metric]) for score in scores.values()))
    _print(table)
    for name, place in places.items():
        if drivingqa.calibrated_on(Path(place), data):
            _say(
                f"{Path(name).name} was calibrated on this very file, of which `owled prune` keeps back the last fifth only: "
                f"give --first {round(len(everything) * 0.8)} or more"
            )
    if json_file:
        write_json(Path(json_file), scores)


def _specs(models: list[str], device: str, dtype: str, threads: int, runtime: str) -> list[EngineSpec]:
    from owled_ros.evaluation.run import EngineSpec, unique_names
    from owled_ros.models.driving_model import resolve_model

    paths = [str(resolve_model(path)) for path in models]  # fails early
    names = unique_names([Path(path).name for path in paths])
    return [EngineSpec(path, name, device, dtype, threads, runtime) for path, name in zip(paths, names, strict=True)]


def _with_references(
    specs: list[EngineSpec], out: Path, dense: Path | None, uniform: Path | None, make: bool, calibration: list[Path]
) -> tuple[list[EngineSpec], dict[str, dict[str, object]]]:
    """Add the dense and the uniformly pruned models of the pruned ones."""
    from owled_ros.evaluation.beside import UNIFORM_SUFFIX, find_beside, with_references
    from owled_ros.models.manifest import is_artifact

    found: list[Beside | None] = []
    for spec in specs:
        path = Path(spec.path)
        if not is_artifact(path):
            found.append(None)
            continue
        made = out / "beside" / f"{spec.name}{UNIFORM_SUFFIX}"
        others = [Path(other.path) for other in specs if other is not spec]
        known = find_beside(path, dense, uniform, [made], others)
        if make and known.wants_uniform:
            from owled_ros.commands.counterpart import make_uniform

            make_uniform(path, known.dense, made, calibration, spec.device)
            known = find_beside(path, dense, uniform, [made], others)
        found.append(known)
    return with_references(specs, found)


def _show(results: list[ResultFile]) -> None:
    from rich.markup import escape
    from rich.table import Table

    baselines = results[0].metrics.get("baselines", {}) if results else {}
    table = Table("metric", *(_heading(result) for result in results))
    trivial = Table(f"trivial answers, beside {_name(results[0])}" if results else "", *baselines)
    for metric, heading in SHOWN:
        values = [_number(result.metrics.get("means", {}).get(metric)) for result in results]
        table.add_row(escape(heading), *values)
        trivial.add_row(escape(heading), *(_number(means.get(metric)) for means in baselines.values()))
    timings = [result.metrics.get("timing", {}) for result in results]
    for share in (50, 99):
        values = [_number(timing.get(f"action_latency_p{share}_ms")) for timing in timings]
        table.add_row(escape(f"action p{share} [ms]"), *values)
    table.add_row("frames", *(str(result.metrics.get("frames", 0)) for result in results))
    table.add_row("verdict", *(_verdict(result) for result in results))
    if any(result.metrics.get("frames") for result in results):
        _print(table)
        _print(trivial)
    for result in results:
        _say(f"{_name(result)}: {result.summary}" if result.role == JUDGED else f"{_name(result)}: shown beside")
        for note in (result.metrics.get("beside") or {}).get("notes", ()):
            _say(f"  {note}")
        _say(f"  {result.path}")


def _heading(result: ResultFile) -> str:
    return _name(result) if result.role == JUDGED else f"{_name(result)}\n({result.role})"


def _verdict(result: ResultFile) -> str:
    if result.role != JUDGED:
        return "-"
    return "[green]passed[/]" if result.success else "[red]failed[/]"


def _rank(result: ResultFile) -> tuple[bool, float]:
    value = result.metrics.get("means", {}).get("acceleration_filled_mae_mps2")
    return not result.success, float("inf") if value is None else value


def _name(result: ResultFile) -> str:
    return str(result.condition.get("Model", {}).get("name") or result.path.parent.name)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}"


def _print(what: Any) -> None:
    from rich.console import Console

    Console().print(what)


def _say(text: str) -> None:
    from rich.console import Console

    Console().print(text, highlight=False, markup=False, soft_wrap=True)
