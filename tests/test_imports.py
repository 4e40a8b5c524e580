"""What may import what, read from the syntax trees; and that importing touches no network."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    f for folder in ("imagen_mini", "train", "sample") for f in (ROOT / folder).rglob("*.py")
)


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file):
    """Full names of the modules that a file imports, anywhere in it, and of the names it takes from
    them.
    """
    package = (
        module_name(file).split(".")
        if file.name == "__init__.py"
        else module_name(file).split(".")[:-1]
    )
    found = set()
    for node in ast.trajectory(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {module_name(f): imports(f) for f in FILES}


def reached_from(module):
    """Modules of the package that a module imports, also by way of others."""
    todo, seen = [module], set()
    while todo:
        for name in IMPORTS[todo.pop()] & set(IMPORTS) - seen:
            seen.add(name)
            todo.append(name)
    return seen


def named(*names):
    return {f"imagen_mini.{n}" for n in names}


def test_the_reader_of_imports_sees_them():
    assert {"torch", "imagen_mini.diffusion", "imagen_mini.diffusion.to_x_0"} <= IMPORTS[
        "imagen_mini.guidance"
    ]
    assert named("guidance", "diffusion", "schedule") <= reached_from("imagen_mini.samplers")


@pytest.mark.parametrize("module", ["schedule", "diffusion", "guidance", "samplers"])
def test_diffusion_mathematics_reaches_no_network(module):
    assert not reached_from(f"imagen_mini.{module}") & named(
        "unet", "attention", "layers", "cascade", "pipeline"
    )


@pytest.mark.parametrize("module", ["unet", "attention", "layers"])
def test_networks_reach_no_diffusion_mathematics(module):
    assert not reached_from(f"imagen_mini.{module}") & named(
        "schedule", "diffusion", "guidance", "samplers", "cascade", "pipeline"
    )


def test_an_edit_reaches_the_network_only_through_its_control():
    assert IMPORTS["imagen_mini.prompt_to_prompt"] & named("attention") and not reached_from(
        "imagen_mini.prompt_to_prompt"
    ) & named("unet", "samplers", "guidance", "cascade", "pipeline")
    for module in ("attention", "layers", "unet", "guidance", "samplers", "cascade", "pipeline"):
        assert "imagen_mini.prompt_to_prompt" not in reached_from(f"imagen_mini.{module}"), module


@pytest.mark.parametrize("module", sorted(m for m in IMPORTS if m.startswith("imagen_mini.scenes")))
def test_the_built_in_world_knows_nothing_of_the_rest(module):
    assert {m for m in IMPORTS[module] if m.startswith("imagen_mini")} <= {
        m for m in IMPORTS[module] if m.startswith("imagen_mini.scenes")
    }


def test_only_the_text_encoder_and_a_borrowed_clip_import_transformers():
    assert {
        m
        for m, names in IMPORTS.items()
        if any(n.split(".")[0] in ("transformers", "tokenizers") for n in names)
    } == {"imagen_mini.text", "imagen_mini.other_features", "train.text_encoder"}


def test_the_package_does_not_import_its_scripts():
    package = set().union(*(names for m, names in IMPORTS.items() if m.startswith("imagen_mini")))
    assert not {n for n in package if n.split(".")[0] in ("train", "sample", "tests")}


def forbidden_in(source):
    """Uses of pickle, torch.load, torch.save, eval and exec."""
    found = []
    for node in ast.trajectory(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("eval", "exec", "__import__")
        ):
            found.append(node.func.id)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            found.append(ast.unparse(node))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {a.name for a in node.names} | {getattr(node, "module", None) or ""}
            found += [
                n
                for n in names
                if n.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve")
            ]
            found += ["torch.load"] * (
                getattr(node, "module", None) == "torch" and bool({"load", "save"} & names)
            )
    return found


def test_nothing_is_unpickled_or_evaluated():
    assert sorted(
        forbidden_in("import pickle\ntorch.load('x')\neval('1')\nfrom torch import load")
    ) == ["eval", "pickle", "torch.load", "torch.load"]
    assert {f.name: forbidden_in(f.read_text()) for f in FILES if forbidden_in(f.read_text())} == {}


PROBE = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        raise RuntimeError(f"network touched: {event} {args}")
sys.addaudithook(watch)
import imagen_mini
assert imagen_mini.__version__ and "torch" not in sys.modules, "the package alone imports torch"
import %s
loaded = [m for m in ("transformers", "tokenizers", "datasets", "matplotlib", "huggingface_hub") if m in sys.modules]
assert not loaded, loaded
import torch
assert not torch.cuda.is_initialized()
imagen_mini.ImagenPipeline
"""


def test_importing_everything_touches_no_network_no_device_and_no_large_library_it_does_not_need():
    modules = ", ".join(
        m
        for m in IMPORTS
        if m.startswith("imagen_mini") and "imagen_mini.charts" not in reached_from(m) | {m}
    )
    done = subprocess.run(
        [sys.executable, "-c", PROBE % modules], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_charts_are_reached_by_figures_alone():
    drawing = {
        m
        for m in IMPORTS
        if m.startswith("imagen_mini") and "imagen_mini.charts" in reached_from(m)
    }
    assert {m for m in drawing if not m.startswith("imagen_mini.viz.")} == set()
    assert {
        m
        for m in IMPORTS
        if m.startswith("imagen_mini") and any(n.split(".")[0] == "matplotlib" for n in IMPORTS[m])
    } <= drawing | {"imagen_mini.charts"}


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import imagen_mini

    with pytest.raises(AttributeError, match="has no attribute 'Imagen'"):
        imagen_mini.Imagen


def test_files_stay_short_enough_to_read_in_one_sitting():
    assert {f.name: n for f in FILES if (n := len(f.read_text().splitlines())) > 320} == {}
