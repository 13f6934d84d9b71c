"""`thinkrl evaluate`: a model on a benchmark, with intervals, under a protocol that has a hash."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thinkrl.cli.arguments import complete_override
from thinkrl.config.component import ConfigError, UserError
from thinkrl.config.nearest import suggestion
from thinkrl.config.paths import conf_dir

if TYPE_CHECKING:
    from thinkrl.benchmarks.result import BenchmarkResult

EXAMPLES = """Examples:

thinkrl evaluate --model smollm2_135m_instruct benchmark=NAME

thinkrl evaluate --model runs/quickstart/seed0/stages/3_grpo/model benchmark=NAME benchmark.samples=4

thinkrl evaluate --model B benchmark=NAME --compare results/a.json"""


def complete_model(incomplete: str) -> list[str]:
    """Model choices that begin with what was typed."""
    return [choice.partition("=")[2] for choice in complete_override(f"model={incomplete}")]


Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="A name of `thinkrl list models`, a folder of weights, or a hub id.",
        autocompletion=complete_model,
    ),
]
Settings = Annotated[
    list[str],
    typer.Argument(
        metavar="benchmark=NAME [KEY=VALUE]...", help="The benchmark, and overrides.", autocompletion=complete_override
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="Where the result goes; by default results/BENCHMARK/MODEL-HASH-SEED.json."),
]
Compare = Annotated[
    Path | None,
    typer.Option("--compare", help="An earlier result; prints the paired difference to it.", dir_okay=False),
]


def evaluate(
    model: Model,
    overrides: Settings,
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    compare: Compare = None,
    force: Annotated[bool, typer.Option("--force", help="Compare across different protocols all the same.")] = False,
) -> None:
    """Evaluate a model: accuracy over k samples, pass@k, maj@k, intervals and a protocol hash."""
    from thinkrl.cli.cores import choose_wait_policy

    choose_wait_policy()
    from thinkrl.benchmarks.evaluate import evaluate_model
    from thinkrl.cli.evaluation import Evaluation
    from thinkrl.config.build import build
    from thinkrl.config.compose import compose

    if not any(override.partition("=")[0].lstrip("+") == "benchmark" for override in overrides):
        names = [path.stem for path in (conf_dir() / "benchmark").glob("*.yaml")]
        raise ConfigError(f"name a benchmark: benchmark=NAME; {suggestion('', names)}")
    earlier = _read(compare) if compare is not None else None
    composed = compose(conf_dir() / "evaluate.yaml", [model_override(model), *overrides])
    evaluation = build(Evaluation, composed.tree, composed)
    evaluation.sampler.check()
    policy = evaluation.model.load(seed=evaluation.seed)
    with closing(evaluation.sampler.open(policy)) as sampler:
        result, _ = evaluate_model(policy, evaluation.benchmark, sampler, evaluation.seed)
    path = save(result, output if output is not None else default_path(result))
    if as_json:
        typer.echo(result.to_json())
    else:
        _print_result(result, path)
    if earlier is not None:
        _print_comparison(earlier, result, force, quiet=as_json)


def model_override(model: str) -> str:
    """The override that chooses a model by its name in `conf/model`, by folder, or by hub id."""
    names = [path.stem for path in (conf_dir() / "model").glob("*.yaml")]
    if model in names:
        return f"model={model}"
    if not Path(model).is_dir() and "/" not in model:
        raise ConfigError(f"--model: there is no model {model!r}: {suggestion(model, names)}")
    settings = [f"source:{_quoted(model)}", *_settings_of_run(Path(model))]
    return f"model={{_target_:thinkrl.models.pretrained.PretrainedModel,{','.join(settings)}}}"


def _settings_of_run(folder: Path) -> list[str]:
    """Precision and stop tokens of the model of the run that `folder` lies in; nothing when it lies in none."""
    import yaml

    for parent in folder.resolve().parents:
        if (parent / "run.json").is_file() and (parent / "config.yaml").is_file():
            model = yaml.safe_load((parent / "config.yaml").read_text(encoding="utf-8")).get("model") or {}
            stop_tokens = ",".join(map(_quoted, model.get("stop_tokens") or ()))
            return [f"dtype:{model.get('dtype', 'float32')}", f"stop_tokens:[{stop_tokens}]"]
    return []


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def default_path(result: "BenchmarkResult") -> Path:
    """`results/<benchmark>/<model>-<protocol hash>-seed<seed>.json`."""
    model = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in result.model)
    return Path("results") / result.protocol.benchmark / f"{model}-{result.protocol.hash}-seed{result.seed}.json"


def save(result: "BenchmarkResult", path: Path) -> Path:
    """Writes the result and returns where: beside `path`, with a number, when another result is there already."""
    from itertools import count

    from thinkrl.tracking.atomic import write_text
    from thinkrl.tracking.errors import disk_errors

    text = result.to_json()
    places = (path if number == 1 else path.with_stem(f"{path.stem}-{number}") for number in count(1))
    place = next(place for place in places if not place.exists() or place.read_text(encoding="utf-8") == text)
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, text)
    return place


def _read(path: Path) -> "BenchmarkResult":
    from thinkrl.benchmarks.result import BenchmarkResult, ResultError

    try:
        return BenchmarkResult.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--compare: {path} cannot be read: {error.strerror}") from error
    except ResultError as error:
        raise UserError(f"--compare: {path}: {error}") from error


def _print_result(result: "BenchmarkResult", path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", "value", title=f"{result.model} on {result.protocol.benchmark}", title_justify="left")
    for name, value in result.metrics().items():
        table.add_row(name, f"{value:.4g}")
    console = Console()
    console.print(table)
    console.print(f"protocol {result.protocol.hash}: {result.protocol.words}", highlight=False, soft_wrap=True)
    console.print(f"saved to {path}", highlight=False, soft_wrap=True)


def _print_comparison(earlier: "BenchmarkResult", result: "BenchmarkResult", force: bool, quiet: bool) -> None:
    from thinkrl.benchmarks.result import ProtocolMismatch
    from thinkrl.benchmarks.result import compare as compare_results

    try:
        found = compare_results(earlier, result, force=force)
    except (ProtocolMismatch, ValueError) as error:
        raise UserError(f"{error} (--force)" if isinstance(error, ProtocolMismatch) else str(error)) from error
    if found.differing:
        typer.echo(f"warning: the protocols differ in {', '.join(found.differing)}", err=True)
    paired = found.paired
    typer.echo(
        f"{result.model} minus {earlier.model}: {paired.difference:+.4f} "
        f"(95% interval {paired.interval.low:+.4f} to {paired.interval.high:+.4f}, {paired.prompts} prompts)",
        err=quiet,
    )
