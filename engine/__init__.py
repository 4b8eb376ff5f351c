"""Transfer Learning Engine: a frozen backbone sees every picture once, heads train on the cached features in seconds.

    import tle

    tle.extract("photos/", "photos.h5", backbone="torchvision/resnet50")
    tle.fit_head("photos.h5", "photos.head")
    tle.evaluate("photos.head", "test.h5")
    classifier = tle.load_classifier("photos.head")

Names are imported when they are first used, so `import tle` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tle.errors import TleError

if TYPE_CHECKING:
    from tle.backbones.load import PreprocessOverrides, list_layers, load_backbone
    from tle.benchmark import BenchResult, bench
    from tle.bundle import Bundle, read_bundle, write_bundle
    from tle.cache import Cache, open_cache
    from tle.cache.conversion import ConvertResult, convert
    from tle.cache.merging import MergeResult, merge
    from tle.cache.verification import VerifyResult, verify
    from tle.classifier import Classifier, load_classifier
    from tle.comparison import Comparison, Contender, compare
    from tle.doctor import Finding, examine
    from tle.evaluation import Evaluation, evaluate
    from tle.execution import Execution
    from tle.exporting.run import ExportResult, export
    from tle.extraction import ExtractResult, extract
    from tle.fewshot import FewShot, Shots, few_shot
    from tle.finetuning.conclusion import FinetuneResult
    from tle.finetuning.options import FinetuneOptions
    from tle.finetuning.run import finetune
    from tle.heads.fit import FitResult, fit_head
    from tle.heads.head import Head, load_head
    from tle.heads.logistic_path import LogisticPath
    from tle.prediction import PredictResult, predict
    from tle.reporting.run import ReportResult, report
    from tle.sources import Source, open_source

_HOMES = {
    "BenchResult": "tle.benchmark",
    "Bundle": "tle.bundle",
    "Cache": "tle.cache",
    "Classifier": "tle.classifier",
    "Comparison": "tle.comparison",
    "Contender": "tle.comparison",
    "ConvertResult": "tle.cache.conversion",
    "Evaluation": "tle.evaluation",
    "Execution": "tle.execution",
    "ExportResult": "tle.exporting.run",
    "ExtractResult": "tle.extraction",
    "FewShot": "tle.fewshot",
    "Finding": "tle.doctor",
    "FinetuneOptions": "tle.finetuning.options",
    "FinetuneResult": "tle.finetuning.conclusion",
    "FitResult": "tle.heads.fit",
    "Head": "tle.heads.head",
    "LogisticPath": "tle.heads.logistic_path",
    "MergeResult": "tle.cache.merging",
    "PredictResult": "tle.prediction",
    "PreprocessOverrides": "tle.backbones.load",
    "ReportResult": "tle.reporting.run",
    "Shots": "tle.fewshot",
    "Source": "tle.sources",
    "VerifyResult": "tle.cache.verification",
    "bench": "tle.benchmark",
    "compare": "tle.comparison",
    "convert": "tle.cache.conversion",
    "evaluate": "tle.evaluation",
    "examine": "tle.doctor",
    "export": "tle.exporting.run",
    "extract": "tle.extraction",
    "few_shot": "tle.fewshot",
    "finetune": "tle.finetuning.run",
    "fit_head": "tle.heads.fit",
    "list_layers": "tle.backbones.load",
    "load_backbone": "tle.backbones.load",
    "load_classifier": "tle.classifier",
    "load_head": "tle.heads.head",
    "merge": "tle.cache.merging",
    "open_cache": "tle.cache",
    "open_source": "tle.sources",
    "predict": "tle.prediction",
    "read_bundle": "tle.bundle",
    "report": "tle.reporting.run",
    "verify": "tle.cache.verification",
    "write_bundle": "tle.bundle",
}

__all__ = [
    "BenchResult",
    "Bundle",
    "Cache",
    "Classifier",
    "Comparison",
    "Contender",
    "ConvertResult",
    "Evaluation",
    "Execution",
    "ExportResult",
    "ExtractResult",
    "FewShot",
    "Finding",
    "FinetuneOptions",
    "FinetuneResult",
    "FitResult",
    "Head",
    "LogisticPath",
    "MergeResult",
    "PredictResult",
    "PreprocessOverrides",
    "ReportResult",
    "Shots",
    "Source",
    "TleError",
    "VerifyResult",
    "bench",
    "compare",
    "convert",
    "evaluate",
    "examine",
    "export",
    "extract",
    "few_shot",
    "finetune",
    "fit_head",
    "list_layers",
    "load_backbone",
    "load_classifier",
    "load_head",
    "merge",
    "open_cache",
    "open_source",
    "predict",
    "read_bundle",
    "report",
    "verify",
    "write_bundle",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tle' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
