"""`tle fit-head`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import tle
from tle.cli.output import Json, Output, print_json
from tle.progress import tell


def fit_head(
    cache: Path,
    /,
    *,
    output: Output,
    head: str | None = None,
    param: Annotated[list[str] | None, Parameter(name=["--param", "-p"])] = None,
    seed: int = 0,
    val_fraction: float = 0.1,
    splits: Path | None = None,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Fit a classifier on a cache, in seconds.

    What the head is free to choose (the strength of regularisation, say) is chosen on validation pictures: the cache's own
    val split, or a stratified part of train. Then it is fitted again on train and val together. Test is never touched.

    Args:
        cache: A cache written by tle extract.
        output: The head to write, NAME.head.
        head: logistic, linear, ridge, knn or sklearn:IMPORT.PATH; by default logistic, for regression ridge.
        param: A setting of the head as NAME=VALUE; repeat it for several.
        seed: Seed of the validation split and of everything random in the head.
        val_fraction: Part of train that is held out to choose on, where the cache has no val split.
        splits: A CSV or Parquet manifest with the columns path and split, to be used instead of the cache's splits.
        overwrite: Replace an existing head.
    """
    result = tle.fit_head(
        cache,
        output,
        head=head,
        params=param,
        seed=seed,
        val_fraction=val_fraction,
        splits=splits,
        overwrite=overwrite,
    )
    tell(result.notes, shown=True)
    if json:
        print_json(result.to_dict())
        return
    chosen = ", ".join(f"{name} = {_short(value)}" for name, value in result.chosen.items())
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.val.items() if isinstance(value, float))
    print(f"{result.path}: {result.kind} head, {result.n_train:,} train and {result.n_val:,} val pictures")
    print(f"chosen on val: {chosen or 'nothing to choose'}")
    print(f"on val, before the last fit: {figures or 'nothing could be measured, there are no val pictures'}")


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
