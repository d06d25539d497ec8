"""The ``kdstats`` command.

Results go to stdout, progress and errors to stderr. Exit codes: 0 agreed (or nothing to judge), 1
refuted, 2 bad usage or data, 4 unreliable (undecided), 130 interrupted. No traceback reaches a user.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kdstats.cli.flags import CommandOfFlags, spoken
from kdstats.cli.language import language
from kdstats.cli.posing import PosedStudy, of_a_study
from kdstats.errors import KdstatsError, KdstatsWarning, invalid

__all__ = ["application", "run"]

EXIT = {"agree": 0, "disagree": 1, "undecided": 4}
BAD_DATA, INTERRUPTED = 2, 130
PLAN_FLAGS = (
    "budget",
    "prompt_cost",
    "response_cost",
    "training_cost",
    "n_students",
    "interval_ratio",
    "equivalence_margin",
    "detectable_ratio",
    "power",
    "max_inputs",
    "max_responses",
    "criterion",
    "misfit_variance",
    "pilot",
)


class InterruptedByUserError(Exception):
    """Ctrl-C, kept from the command library, which would answer it without saying how to go on."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedByUserError from None


application = typer.Typer(
    name="kdstats",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Predict, observe and test how much distilled students vary.",
)
application.add_typer(language)
command = partial(application.command, cls=CommandOfFlags)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int | None, typer.Option(help="Seed; overrides the study's.")]
Out = Annotated[Path | None, typer.Option(help="Folder for results; an interrupted run is resumed from it.")]
Students = Annotated[int | None, typer.Option(help="Number of students; overrides the study's.")]
WeightingGains = Annotated[
    bool, typer.Option("--weighting-gains", help="Predict what weighting by variances gains or loses instead.")
]
EngineName = Annotated[str | None, typer.Option("--engine", help="Engine; overrides the default.")]


def run() -> None:
    """Run the command and turn every outcome into an exit code."""
    warnings.showwarning = _show_warning
    try:
        code = application(standalone_mode=False)
    except KdstatsError as error:
        code = _fail(f"kdstats: {error}", BAD_DATA)
    except InterruptedByUserError:
        code = _fail(f"kdstats: interrupted{_how_to_go_on(sys.argv[1:])}", INTERRUPTED)
    except Exception as error:
        code = _usage_error(error)
    raise SystemExit(code or 0)


def _usage_error(error: Exception) -> int:
    """Say in one line what is wrong with the command itself; anything else is a bug and keeps its traceback."""
    describe = getattr(error, "format_message", None)
    if not callable(describe):
        raise error
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(describe(), err=True)
        return BAD_DATA
    return _fail(
        f"kdstats: {describe()} (kdstats --help has the commands, kdstats COMMAND --help the options)", BAD_DATA
    )


def _how_to_go_on(arguments: list[str]) -> str:
    """Studies keep their finished parts; the other commands write at their end."""
    kept = (
        arguments[:1] in (["demo"], ["report"])
        or arguments[:2] == ["language", "sample"]
        or {"--until-decided", "--out"} <= set(arguments)
    )
    if not kept:
        return ""
    return f"; finished parts are kept, go on with: kdstats {shlex.join(arguments)}"


@command()
def demo(*, out: Out = None, seed: Seed = None, as_json: Json = False) -> None:
    """Boston Housing from prediction to report: what noise in a teacher does to its students."""
    from kdstats.cli.demo import demo_study

    _study(demo_study(), out=out if out is not None else Path("out/demo"), seed=seed, as_json=as_json)


@command()
@of_a_study
def predict(
    posed: PosedStudy,
    *,
    engine: EngineName = None,
    n_students: Students = None,
    weighting_gains: WeightingGains = False,
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Predict the variance components before any student is trained."""
    from kdstats.engine import predict as predict_components
    from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
    from kdstats.problem.student import NetworkStudent

    loaded = posed.load().with_run(seed=seed)
    if weighting_gains:
        _weighting_gains(loaded, engine=engine, n_students=n_students, out=out, as_json=as_json)
        return
    options: dict[str, Any] = {"engine": engine}
    if engine == "monte_carlo":
        options |= {"n_students": loaded.run.n_simulated if n_students is None else n_students, "rng": loaded.run.seed}
        options["noise_law"] = loaded.run.noise_law
    setting = loaded.setting()
    if engine != "monte_carlo" and isinstance(setting.problem.student, NetworkStudent):
        options["rng"] = loaded.run.seed
        if n_students is not None and engine in (None, "linear_response"):
            options["n_students"] = n_students
    if engine in (None, "conjugate", "pymc") and isinstance(setting.problem.student, BayesianLinearStudent):
        options |= {"rng": loaded.run.seed, "noise_law": loaded.run.noise_law}
        if engine != "pymc" or n_students is not None:
            options["n_students"] = loaded.run.n_simulated if n_students is None else n_students
    if engine in (None, "pymc") and isinstance(setting.problem.student, BayesianStudent):
        options |= {"rng": loaded.run.seed, "noise_law": loaded.run.noise_law}
        options |= {} if n_students is None else {"n_students": n_students}
    if n_students is not None and "n_students" not in options:
        raise invalid("--n-students", "be left out without --engine monte_carlo or linear_response", n_students)
    _prepare(out)
    text = "predicting"
    with _progress(text) as say:
        if engine == "monte_carlo":
            options["progress"] = partial(say, text)
        result = predict_components(setting.problem, **options)
    _print_components(result, out=out, name="predicted", as_json=as_json)


@command()
@of_a_study
def observe(
    posed: PosedStudy,
    *,
    engine: EngineName = None,
    n_students: Students = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Train in batches until the prediction is shown right or wrong.")
    ] = False,
    batch: Annotated[int | None, typer.Option(help="Students between two looks, with --until-decided.")] = None,
    max_students: Annotated[int | None, typer.Option(help="Budget, with --until-decided.")] = None,
    margin: Annotated[float | None, typer.Option(help="Margin on the variance ratio, with --until-decided.")] = None,
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train students for real and estimate their variance components."""
    from kdstats.engine import observe as observe_components
    from kdstats.problem.categorical import SoftmaxStudent

    given = {"batch": batch, "max_students": max_students, "margin": margin}
    chosen = {name: value for name, value in given.items() if value is not None}
    if until_decided:
        if n_students is not None:
            raise invalid("--n-students", "be left out with --until-decided (the budget is --max-students)", n_students)
        _until_decided(posed.load().with_run(seed=seed), engine=engine, out=out, as_json=as_json, options=chosen)
    for name, value in chosen.items():
        raise invalid(f"--{name.replace('_', '-')}", "go with --until-decided", value)

    loaded = posed.load().with_run(seed=seed, n_students=n_students)
    setting = loaded.setting()
    noise = {} if isinstance(setting.problem.student, SoftmaxStudent) else {"noise_law": loaded.run.noise_law}
    _prepare(out)
    text = f"training {loaded.run.n_students} students"
    with _progress(text) as say:
        result = observe_components(
            setting.problem,
            engine=engine,
            n_students=loaded.run.n_students,
            rng=loaded.run.seed,
            progress=partial(say, text),
            **noise,
        )
    _print_components(result, out=out, name="observed", as_json=as_json)


@command()
def attribute(
    study: Annotated[Path, typer.Argument(help="Study file (TOML).")],
    *,
    n_levels: Annotated[
        str | None, typer.Option(help="Draws of each source, as 12 or teacher_output=12,data_order=5.")
    ] = None,
    seed: Seed = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train students that cross every source of randomness; say which source makes them differ (Sobol indices)."""
    from kdstats.cli.attribution import attribute_study, parse_levels
    from kdstats.study import Study

    levels = parse_levels(n_levels)
    loaded = Study.from_toml(study).with_run(seed=seed)
    _prepare(out)
    text = "training crossed students"
    with _progress(text) as say:
        result = attribute_study(loaded, n_levels=levels, out=out, as_json=as_json, progress=partial(say, text))
    typer.echo(result)


@command()
def compare(
    predicted: Annotated[Path, typer.Argument(help="Result of `kdstats predict --out` (NetCDF).")],
    observed: Annotated[Path, typer.Argument(help="Result of `kdstats observe --out` (NetCDF).")],
    *,
    margin: Annotated[float, typer.Option(help="Equivalence margin on the variance ratio.")] = 1.5,
    confidence_level: Annotated[float, typer.Option(help="One minus the level of every test.")] = 0.95,
    as_json: Json = False,
) -> None:
    """Test a prediction against an observation; the exit code is the verdict."""
    from kdstats.components.result import VarianceComponents
    from kdstats.hypotest import compare as compare_components

    result = compare_components(
        VarianceComponents.from_netcdf(predicted),
        VarianceComponents.from_netcdf(observed),
        equivalence_margin=margin,
        confidence_level=confidence_level,
    )
    typer.echo(json.dumps(result.to_dict(), indent=1) if as_json else result.summary())
    raise typer.Exit(EXIT[result.verdict])


@command()
def report(
    study: Annotated[Path, typer.Argument(help="Study file (TOML).")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for results and report.html.")],
    seed: Seed = None,
    n_students: Students = None,
    as_json: Json = False,
) -> None:
    """Run a whole study: predict, observe, test, and write a self-contained HTML report."""
    from kdstats.study import Study

    loaded = Study.from_toml(study).with_run(n_students=n_students)
    _study(loaded, out=out, seed=seed, as_json=as_json)


@command()
def decompose(
    table: Annotated[Path, typer.Argument(help="CSV or Parquet with columns student, replicate, point and values.")],
    *,
    value: Annotated[
        list[str] | None, typer.Option(help="Value column, or a pattern with *; repeat for several outputs.")
    ] = None,
    student: Annotated[str, typer.Option(help="Column of students.")] = "student",
    replicate: Annotated[str, typer.Option(help="Column of replicates; may be absent.")] = "replicate",
    point: Annotated[str, typer.Option(help="Column of points; may be absent.")] = "point",
    nan_policy: Annotated[str, typer.Option(help="raise, or omit: use the outputs there are.")] = "raise",
    variances: Annotated[
        float | None, typer.Option(help="With one replicate: known variance of a student's outputs.")
    ] = None,
    sources: Annotated[
        str | None, typer.Option(help="Columns of crossed sources, as a,b,c: variance by source.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="anova, reml or ml, with --sources.")] = None,
    interactions: Annotated[int | None, typer.Option(help="Most sources in one interaction, with --sources.")] = None,
    students: Annotated[
        str | None,
        typer.Option(help="Law of students behind the intervals: gaussian, or any.", show_default="gaussian"),
    ] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Estimate the components of your own predictions, from any system."""
    from kdstats.cli.sources import decompose_by_source
    from kdstats.cli.tables import optional_keys, read_long_table
    from kdstats.components.uncertainty import LAWS
    from kdstats.observation.table import decompose as decompose_table
    from kdstats.problem.validation import as_choice

    for name, flag in (("--method", method), ("--interactions", interactions)):
        if sources is None and flag is not None:
            raise invalid(name, "go with --sources", flag)
    if sources is not None and variances is not None:
        raise invalid("--variances", "be left out with --sources", variances)
    if sources is not None and students is not None:
        raise invalid("--students", "be left out with --sources", students)
    law = as_choice("students", students or "gaussian", LAWS)
    _prepare(out)
    frame = read_long_table(table)
    if sources is not None:
        text = decompose_by_source(
            frame,
            sources.split(","),
            value=value or None,
            nan_policy=nan_policy,
            replicate=replicate,
            point=point,
            interactions=interactions,
            method=method or "anova",
            out=out,
            as_json=as_json,
        )
        typer.echo(text)
        return
    result = decompose_table(
        frame,
        value=value or None,
        student=student,
        **optional_keys(frame, replicate=replicate, point=point),
        nan_policy=nan_policy,
        variances=variances,
    )
    _print_components(result, out=out, name="observed", as_json=as_json, students=law)


@command("decompose-classes")
def decompose_classes(
    table: Annotated[Path, typer.Argument(help="CSV with columns student, replicate, point and predicted classes.")],
    *,
    kind: Annotated[str, typer.Option(help="probabilities (a column per class) or labels.")] = "probabilities",
    classes: Annotated[
        str | None, typer.Option(help="Columns of probabilities, as a,b,c or a pattern; or all labels there are.")
    ] = None,
    label: Annotated[str, typer.Option(help="Column of labels.")] = "label",
    student: Annotated[str, typer.Option(help="Column of students.")] = "student",
    replicate: Annotated[str, typer.Option(help="Column of replicates; may be absent.")] = "replicate",
    point: Annotated[str, typer.Option(help="Column of points; may be absent.")] = "point",
    unit: Annotated[str, typer.Option(help="Unit of entropy: nats or bits.")] = "nats",
    sum_tolerance: Annotated[float, typer.Option(help="How far from 1 probabilities may sum.")] = 1e-6,
    nan_policy: Annotated[str, typer.Option(help="raise or omit.")] = "raise",
    allow_duplicates: Annotated[bool, typer.Option("--allow-duplicates", help="Accept students that copy others.")] = (
        False
    ),
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Split the Gini index and entropy of predicted classes into parts between and within students."""
    from kdstats.cli.classes import decompose_class_table
    from kdstats.cli.tables import read_long_table

    _prepare(out)
    text = decompose_class_table(
        read_long_table(table),
        kind=kind,
        classes=classes,
        label=label,
        student=student,
        replicate=replicate,
        point=point,
        unit=unit,
        sum_tolerance=sum_tolerance,
        nan_policy=nan_policy,
        allow_duplicates=allow_duplicates,
        out=out,
        as_json=as_json,
    )
    typer.echo(text)


@command("decompose-responses")
def decompose_responses(
    table: Annotated[
        Path,
        typer.Argument(help="JSON lines, CSV or Parquet with prompt_id, response and student (none: the teacher)."),
    ],
    *,
    references: Annotated[Path | None, typer.Option(help="File with prompt_id and reference.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Vectors of the rows, saved by numpy.save.")] = None,
    similarity: Annotated[float, typer.Option(help="Average cosine of answers of one meaning.")] = 0.75,
    bulk: Annotated[float, typer.Option(help="Share of the teacher's answers that makes a cluster its bulk.")] = 0.2,
    fuzzy_threshold: Annotated[float, typer.Option(help="Similarity of a misspelt reference.")] = 0.85,
    allow_duplicates: Annotated[bool, typer.Option("--allow-duplicates", help="Accept students that copy others.")] = (
        False
    ),
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure how the text answers of students vary, err and agree, with intervals over students and prompts."""
    from kdstats.cli.responses import decompose_response_file

    _prepare(out)
    text = decompose_response_file(
        table,
        references=references,
        embeddings=embeddings,
        similarity=similarity,
        bulk=bulk,
        fuzzy_threshold=fuzzy_threshold,
        allow_duplicates=allow_duplicates,
        out=out,
        as_json=as_json,
    )
    typer.echo(text)


@command("predict-classes")
def predict_classes(
    table: Annotated[Path, typer.Argument(help="CSV with a row per prompt and a column of probabilities per answer.")],
    *,
    classes: Annotated[
        str | None, typer.Option(help="Columns of probabilities, as a,b,c or a pattern. Default: all but point.")
    ] = None,
    n_responses: Annotated[
        str, typer.Option("--n-responses", "-k", help="Answers sampled for each prompt, as 5 or 1,5,20.")
    ] = "1",
    response_correlation: Annotated[float, typer.Option(help="Between answers to one prompt.")] = 0.0,
    pseudo_count: Annotated[float | None, typer.Option(help="Students that smooth, by this much per answer.")] = None,
    prior_count: Annotated[float | None, typer.Option(help="Bayesian students with this Dirichlet prior.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sample at this temperature.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample among this many likeliest answers.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest answers of this mass.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Risk that a student prefers an answer less probable than this.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Unit of entropy: nats or bits.")] = "nats",
    seed: Annotated[int, typer.Option(help="Of what is simulated, if anything is.")] = 1,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Predict entropies, missing mass and agreement of students that learn sampled answers by heart."""
    from kdstats.cli.class_prediction import predict_class_table
    from kdstats.cli.tables import read_long_table

    _prepare(out)
    text = predict_class_table(
        read_long_table(table),
        classes=classes,
        n_responses=n_responses,
        response_correlation=response_correlation,
        pseudo_count=pseudo_count,
        prior_count=prior_count,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        threshold=threshold,
        unit=unit,
        seed=seed,
        out=out,
        as_json=as_json,
    )
    typer.echo(text)


@command()
@of_a_study
def plan(
    posed: PosedStudy,
    *,
    budget: Annotated[float | None, typer.Option(help="Most that may be spent.")] = None,
    goal: Annotated[
        float | None, typer.Option(help="Largest variance (or squared error) that will do, in place of --budget.")
    ] = None,
    prompt_cost: Annotated[float, typer.Option(help="Price of one more input.")] = 0.0,
    response_cost: Annotated[float, typer.Option(help="Price of one response.")],
    training_cost: Annotated[float, typer.Option(help="Price of training one student.")] = 0.0,
    n_students: Annotated[int | None, typer.Option(help="Students to train, each on responses of its own.")] = None,
    interval_ratio: Annotated[
        float | None, typer.Option(help="As many students as a 95% interval with this upper/lower ratio needs.")
    ] = None,
    equivalence_margin: Annotated[
        float | None, typer.Option(help="As many students as the equivalence test with this margin needs.")
    ] = None,
    detectable_ratio: Annotated[
        float | None, typer.Option(help="As many students as the equality test needs to see this ratio.")
    ] = None,
    power: Annotated[float, typer.Option(help="Probability that the test succeeds.")] = 0.8,
    max_inputs: Annotated[int | None, typer.Option(help="Most inputs.")] = None,
    max_responses: Annotated[int | None, typer.Option(help="Most responses to an input.")] = None,
    criterion: Annotated[str | None, typer.Option(help="inter_student or mse.")] = None,
    misfit_variance: Annotated[float | None, typer.Option(help="Variance that students cannot fit, with mse.")] = None,
    pilot: Annotated[
        int | None, typer.Option(help="Noise variance and means are estimates from this many responses to each input.")
    ] = None,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="Folder for plan.json and frontier.png.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a budget should buy: how many inputs, responses to each, and students."""
    flags = locals()
    from kdstats.cli.planning import plan_study

    loaded = posed.load().with_run(seed=seed)
    _prepare(out)
    options = {name: flags[name] for name in PLAN_FLAGS} | {"target": goal}
    with _progress("planning") as say:
        say("planning")
        text = plan_study(loaded, out=out, as_json=as_json, options=options)
    if out is not None:
        typer.echo(f"wrote {out / 'plan.json'} and {out / 'frontier.png'}", err=True)
    typer.echo(text)


def _study(study: Any, *, out: Path, seed: int | None, as_json: bool) -> None:
    from kdstats.cli.presentation import study_json, study_text
    from kdstats.study import run_study
    from kdstats.study.document import write_report

    study = study.with_run(seed=seed)
    with _progress("starting") as say:
        result = run_study(study, out=out, say=say)
        say("writing the report")
        place = write_report(result, out / "report.html")
    typer.echo(json.dumps(study_json(result, place), indent=1) if as_json else study_text(result, place))
    raise typer.Exit(EXIT[result.verdict] if result.comparisons else 0)


def _weighting_gains(
    loaded: Any, *, engine: str | None, n_students: int | None, out: Path | None, as_json: bool
) -> None:
    from kdstats.files import write_atomically
    from kdstats.prediction.weighting import weighting_gains

    if engine is not None:
        raise invalid("--engine", "be left out with --weighting-gains", engine)
    given: dict[str, Any] = {} if n_students is None else {"n_students": n_students}
    setting = loaded.setting()
    _prepare(out)
    text = "weighting"
    with _progress(text) as say:
        gains = weighting_gains(
            setting.problem,
            rng=loaded.run.seed,
            noise_law=loaded.run.noise_law,
            progress=partial(say, text),
            **given,
        )
    if out is not None:
        write_atomically(out / "weighting_gains.json", json.dumps(gains.to_dict(), indent=1), parameter="out")
        typer.echo(f"wrote {out / 'weighting_gains.json'}", err=True)
    typer.echo(json.dumps(gains.to_dict(), indent=1) if as_json else gains.summary())


def _until_decided(study: Any, *, engine: str | None, out: Path | None, as_json: bool, options: dict[str, Any]) -> None:
    """Observe until decided; the exit code is the verdict."""
    from kdstats.study import observe_until_decided

    run = study.run
    problem = study.setting().problem
    _prepare(out)
    with _progress("training students until decided") as say:
        result = observe_until_decided(
            problem,
            engine=engine,
            rng=run.seed,
            noise_law=run.noise_law,
            confidence_level=run.confidence_level,
            out=out,
            say=say,
            **({"margin": run.equivalence_margin} | options),
        )
    if out is not None:
        result.observed.to_netcdf(out / "observed.nc")
        typer.echo(f"wrote {out / 'observed.nc'}", err=True)
    typer.echo(json.dumps(result.to_dict(), indent=1) if as_json else result.summary())
    raise typer.Exit(EXIT[result.verdict])


def _prepare(out: Path | None) -> None:
    from kdstats.study.folder import prepare

    if out is not None:
        prepare(out)


def _print_components(result: Any, *, out: Path | None, name: str, as_json: bool, students: str = "gaussian") -> None:
    from kdstats.cli.presentation import components_json

    text = (
        json.dumps(components_json(result, students=students), indent=1)
        if as_json
        else spoken(result.summary(students=students))
    )
    if out is not None:
        result.to_netcdf(out / f"{name}.nc")
        typer.echo(f"wrote {out / f'{name}.nc'}", err=True)
    typer.echo(text)
    if result.attrs.get("unreliable"):
        raise typer.Exit(EXIT["undecided"])


@contextmanager
def _progress(first: str) -> Iterator[Callable[..., None]]:
    """Show on stderr what is being done: a live line on a terminal, one plain line a step elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(first) as status:
            yield lambda text, done=None, total=None: status.update(text if total is None else f"{text}: {done}")
        return

    def say(text: str, done: int | None = None, total: int | None = None) -> None:
        if total is None:
            typer.echo(f"kdstats: {text} ...", err=True)

    yield say


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, KdstatsWarning):
        typer.echo(f"kdstats: warning: {spoken(str(message))}", err=True)


def _fail(text: str, code: int) -> int:
    typer.echo(" ".join(text.split()), err=True)
    return code
