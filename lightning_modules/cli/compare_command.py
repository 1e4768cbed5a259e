"""`snn-async compare`: options and YAML in, a comparison out."""

from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser
from pytorch_lightning import LightningDataModule

from snn_async import asynchronize

from ..compare.fold_data import make_data
from ..compare.run import compare
from ..compare.settings import CHOSEN, CompareSettings
from ..user_errors import blame, check_made


def compare_command(arguments: list[str]) -> None:
    """Run `arguments`, without the command itself.

    Raises:
        ConfigError, ArgumentError: for settings that cannot be run; see `compare`.
    """
    parser = make_parser()
    config = parser.parse_args(_without_foreign_arguments(arguments))
    record = config.clone(with_meta=False).as_dict()
    record = {k: v for k, v in record.items() if k not in ("config", "output", "overwrite")}
    data = config.data.clone(with_meta=False).as_dict()
    with blame("settings"):
        made = parser.instantiate_classes(config)
    for name in ("loss", "lr_scheduler"):
        check_made(f"training.{name}", config.training[name], getattr(made.training, name))
    values = {name: made[name] for name in CompareSettings.__dataclass_fields__}
    settings = CompareSettings(**values | {"execution": made.execution.as_dict()})
    compare(
        settings, lambda fold, folds: make_data(data, fold, folds), config.output, record, config.overwrite
    )


def make_parser() -> ArgumentParser:
    """Return the parser; its errors are exceptions."""
    parser = ArgumentParser(
        prog="snn-async compare",
        description="Train one architecture layered and unlayered; evaluate each model under each execution.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML with any of the options below")
    parser.add_class_arguments(CompareSettings, None, skip={"execution"})
    parser.add_function_arguments(asynchronize, "execution", skip=CHOSEN)
    shared = "Options of `snn_async.asynchronize` that training and evaluation share"
    parser.groups["execution"].title = shared  # type: ignore[index]
    parser.add_subclass_arguments(LightningDataModule, "data", required=True, instantiate=False)
    parser.add_argument("--output", type=Path, default=Path("results/compare"), help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="remove the results in the folder first")
    return parser


def _without_foreign_arguments(arguments: list[str]) -> list[str]:
    """Drop the YAML's `model_args`, which are its own model's, where another `--model` is given without any."""
    names = [argument.split("=")[0] for argument in arguments]
    if "--model" in names and not any(name.startswith("--model_args") for name in names):
        return [*arguments, "--model_args", "{}"]
    return arguments
