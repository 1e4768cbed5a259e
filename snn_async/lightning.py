"""`lightning_modules` under a name of the package's own: `from snn_async.lightning import SpikingClassifier`.

The same modules, and the same classes, whichever name they are imported by. Where the path's first `lightning_modules`
is another one, such as a project's own folder, this name has the package's and nothing is taken from the other.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

REAL = "lightning_modules"
PLACE = Path(__file__).parents[1] / REAL / "__init__.py"


class SameModules(MetaPathFinder, Loader):
    """Finds `snn_async.lightning.x` as `lightning_modules.x`."""

    def __init__(self) -> None:
        self.own: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name.startswith(f"{__name__}.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(REAL + spec.name.removeprefix(__name__))
        self.own[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The module is loaded; the import system has only exchanged its spec.
        assert module.__spec__ is not None
        module.__spec__ = self.own.pop(module.__spec__.name)


def _module() -> ModuleType:
    found = find_spec(REAL)
    if found is not None and found.origin is not None and PLACE.samefile(found.origin):
        sys.meta_path.insert(0, SameModules())
        return import_module(REAL)
    spec = spec_from_file_location(__name__, PLACE)
    assert spec is not None and spec.loader is not None
    module = sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.modules[__name__] = _module()
