"""Scripts under their former names: `python -m train.card` runs `train.model_card` and says so."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location


class RenamedScripts(MetaPathFinder):
    """Finds the modules of `package` under the old names in `names` (old name -> new name)."""

    def __init__(self, package: str, names: dict[str, str]):
        self.package = package
        self.names = {f"{package}.{old}": f"{package}.{new}" for old, new in names.items()}

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        new = self.names.get(fullname)
        if new is None:
            return None
        print(f"{fullname} is now {new}", file=sys.stderr)
        return spec_from_file_location(fullname, find_spec(new).origin)


def keep_old_names(package: str, names: dict[str, str]) -> None:
    """Let scripts of a package be run and imported by their former names as well.

    Args:
        package: The package.
        names: Old name -> new name, without the package.
    """
    sys.meta_path.append(RenamedScripts(package, names))
