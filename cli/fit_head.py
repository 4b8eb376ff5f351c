"""`tle fit-head`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import tle
from tle.cli.output import Json, Output, print_json, print_table
from tle.plotting import check_plot
from tle.progress import tell

if TYPE_CHECKING:
    from tle.heads.fit import FitResult

_ROWS = 12
_DETAILS = 3


def fit_head(
    cache: Path,
    /,
    *,
    output: Output,
    head: str | None = None,
    param: Annotated[list[str] | None, Parameter(name=["--param", "-p"])] = None,
    views: Annotated[list[Path] | None, Parameter(consume_multiple=True, negative=())] = None,
    seed: int = 0,
    val_fraction: float = 0.1,
    folds: int | None = None,
    splits: Path | None = None,
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "top5", "nll", "mAP", "mse", "mae", "r2"]
    | None = None,
    one_se: bool = False,
    no_refit: bool = False,
    calibrate: bool = False,
    plot: Path | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Fit a classifier on a cache, in seconds.

    What the head is free to choose (the strength of regularisation, say) is chosen on validation pictures: the cache's own
    val split, or a stratified part of train, or folds of it. Then it is fitted again on train and val together. Test is
    never touched.

    Args:
        cache: A cache written by tle extract.
        output: The head to write, NAME.head.
        head: logistic, linear, ridge, lda, prototype, knn, mlp, svm or sklearn:IMPORT.PATH; by default logistic, for
            regression ridge.
        param: A setting of the head as NAME=VALUE; repeat it for several.
        views: Caches of tle extract --view, by the same backbone: head linear then sees each picture in another view in
            each epoch.
        seed: Seed of the validation split and of everything random in the head.
        val_fraction: Part of train that is held out to choose on, where the cache has no val split and there are no folds.
        folds: Hold out each of so many parts of train in turn instead, where the cache has no val split.
        splits: A CSV or Parquet manifest with the columns path and split, to be used instead of the cache's splits.
        metric: What to choose by; by default accuracy, for multi-label mAP, for regression mse.
        one_se: Take the simplest setting whose metric is within one standard error of the best.
        no_refit: Leave the final fit on train alone, without val.
        calibrate: Apply the temperature that makes probabilities most likely on the validation pictures.
        plot: Draw the sweep into this PNG, PDF or SVG file.
        overwrite: Replace an existing head or picture.
    """
    if plot is not None:
        check_plot(
            plot, overwrite=overwrite, inputs=[cache, *(views or []), *([splits] if splits else [])], output=output
        )
    result = tle.fit_head(
        cache,
        output,
        head=head,
        params=param,
        views=views or (),
        seed=seed,
        val_fraction=val_fraction,
        folds=folds,
        splits=splits,
        metric=metric,
        one_se=one_se,
        refit=not no_refit,
        calibrate=calibrate,
        overwrite=overwrite,
    )
    tell(result.notes, shown=True)
    if plot is not None:
        _plot(result, plot)
    if json:
        print_json(result.to_dict())
        return
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.val.items() if isinstance(value, float))
    held_out = f"{result.n_val:,} val pictures" if not result.folds else f"{result.folds} folds"
    print(f"{result.path}: {result.kind} head, {result.n_train:,} train pictures and {held_out}")
    if len(result.sweep) > 1:
        _print_sweep(result)
    chosen = ", ".join(f"{name} = {_short(value)}" for name, value in result.chosen.items())
    print(f"{_how(result)}: {chosen or 'nothing to choose'}")
    print(f"on val, before the last fit: {figures or 'nothing could be measured, there are no val pictures'}")
    if result.calibration is not None:
        print(_calibration_line(result.calibration))


def _plot(result: "FitResult", plot: Path) -> None:
    from tle.heads.sweep_plot import plot_sweep

    if not result.sweep:
        tell([f"nothing was tried, so there is no sweep to draw: {plot} was not written"], shown=True)
        return
    plot_sweep(result.sweep, result.choice, plot, title=f"{result.kind} head, chosen by {result.choice['metric']}")


def _print_sweep(result: "FitResult") -> None:
    """The neighbourhood of the best in the order of the sweep; where several settings vary, the best."""
    from tle.heads.sweep_plot import varying_settings

    sweep, metric = result.sweep, str(result.choice["metric"])
    taken = next(index for index, row in enumerate(sweep) if row.get("chosen"))
    varying = varying_settings(sweep, result.choice)
    if len(varying) > 1:
        lower = metric in ("nll", "mse", "mae")
        order = sorted(
            range(len(sweep)), key=lambda i: (metric not in sweep[i], sweep[i].get(metric, 0) * (2 * lower - 1))
        )
        shown = order[:_ROWS] if taken in order[:_ROWS] else [*order[: _ROWS - 1], taken]
    else:
        start = max(0, min(taken - _ROWS // 2, len(sweep) - _ROWS))
        shown = list(range(start, min(start + _ROWS, len(sweep))))
    figures = list(
        dict.fromkeys([metric, *(name for name in ("nll", "mae", "mse") if any(name in row for row in sweep))])
    )
    known = {*result.choice["settings"], *figures, *(f"{name}_se" for name in figures), "chosen", "folds", "seconds"}
    details = [
        name
        for name in dict.fromkeys(name for row in sweep for name in row)
        if name not in known and any(_is_number(row.get(name)) for row in sweep)
    ]
    details.sort(key=lambda name: name != "gap")
    columns = [*varying, metric, f"{metric}_se", *figures[1:], *details[:_DETAILS]]
    rows = [[*(_cell(sweep[i].get(name)) for name in columns), _mark(sweep[i])] for i in shown]
    print_table(rows, header=[*("s.e." if name == f"{metric}_se" else name for name in columns), ""])
    if left := len(sweep) - len(shown):
        print(f"and {left} more: see --json or --plot")
    if result.choice["stopped"]:
        print(
            f"the sweep stopped after {result.choice['stopped']['tried']} settings: {result.choice['stopped']['reason']}"
        )


def _mark(row: Mapping[str, Any]) -> str:
    return "chosen" if row.get("chosen") else "diverged" if row.get("diverged") else ""


def _how(result: "FitResult") -> str:
    if not result.choice:
        return "settings"
    rule = ", the simplest within one standard error" if result.choice["rule"] != "best" else ""
    return f"chosen on val by {result.choice['metric']}{rule}"


def _calibration_line(found: Mapping[str, Any]) -> str:
    if found["source"] == "head":
        return f"calibration: the head has a temperature of its own, {found['temperature']:.4g}, fitted on val"
    done = "applied" if found["applied"] else "not applied (--calibrate does)"
    return (
        f"calibration: temperature {found['temperature']:.4g} takes nll from {found['nll_before']:.4f} to "
        f"{found['nll_after']:.4f} and ece from {found['ece_before']:.4f} to {found['ece_after']:.4f}, {done}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return str(_short(value))


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
