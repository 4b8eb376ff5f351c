"""Flags of a random view."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tle.errors import UsageError

if TYPE_CHECKING:
    from tle.views import View


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ViewFlags:
    """What is seen of a picture, where it is not what will be evaluated."""

    view: Annotated[
        int | None,
        Parameter(
            help="Extract a random view of every picture instead, for tle fit-head --views; each number is another draw."
        ),
    ] = None
    crop_scale: Annotated[
        tuple[float, float] | None,
        Parameter(help="Least and largest part of a picture's area that --view takes; by default 0.35 1."),
    ] = None
    flip: Annotated[float | None, Parameter(help="Probability of a horizontal flip of --view; by default 0.5.")] = None
    rand_augment: Annotated[
        tuple[int, int] | None,
        Parameter(help="Operations and magnitude (0 to 30) of RandAugment in --view, such as 2 9."),
    ] = None

    def view_of_pictures(self) -> "View | None":
        """The view that is asked for, if any.

        Raises:
            UsageError: a value that cannot be used, or one without a view.
        """
        given: dict[str, Any] = {
            name: value
            for name, value in (("scale", self.crop_scale), ("flip", self.flip), ("rand_augment", self.rand_augment))
            if value is not None
        }
        if self.view is None:
            if given:
                raise UsageError(
                    "--crop-scale, --flip and --rand-augment belong to --view: add --view 1, or leave them out"
                )
            return None
        from tle.finetuning.augmentation import Augmentation
        from tle.views import View

        return View(number=self.view, augmentation=Augmentation(**given))
