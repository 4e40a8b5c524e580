"""What may import what, read from the syntax trees; and that importing touches no network."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sample
import train

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
    for node in ast.walk(ast.parse(file.read_text())):
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


# The rooms of the package, floor by floor. A room imports what stands on the floors below it, and
# nothing else: not its neighbours, and nothing from above.
FLOORS = [
    ("utils", "weights"),
    ("text", "scenes"),
    ("diffusion", "models", "data"),
    ("cascade", "editing"),
    ("pipeline_inputs", "pipeline_folder"),
    ("image_editing", "guided_generation"),
    ("pipeline", "prompt_to_prompt", "training"),
    ("evaluation",),
    ("viz", "rejection_sampling"),
    ("course",),
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module):
    """The room of a module of the package, None of the package itself and of anything else."""
    parts = module.split(".")
    return parts[1] if parts[0] == "imagen_mini" and len(parts) > 1 else None


def rooms_imported(room):
    """The rooms that a room imports, each with the modules that do."""
    arrows = {}
    for module, names in IMPORTS.items():
        if room_of(module) == room:
            for name in names & set(IMPORTS) | {n for n in names if n == "imagen_mini"}:
                if room_of(name) != room:
                    arrows.setdefault(room_of(name), set()).add(module)
    return arrows


def test_the_reader_of_imports_sees_them():
    guidance = IMPORTS["imagen_mini.diffusion.guidance"]
    assert {"torch", "imagen_mini.diffusion.gaussian.to_x_0"} <= guidance
    samplers = reached_from("imagen_mini.diffusion.samplers")
    assert {f"imagen_mini.diffusion.{n}" for n in ("guidance", "gaussian", "schedules")} <= samplers
    assert "diffusion" in rooms_imported("cascade") and "cascade" in rooms_imported("pipeline")


def test_every_room_has_a_floor_and_every_floor_its_rooms():
    assert set(FLOOR_OF) == {room_of(m) for m in IMPORTS if room_of(m)}


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_room_imports_only_what_stands_below_it(room):
    above = {
        other: sorted(modules)
        for other, modules in rooms_imported(room).items()
        if other is None or FLOOR_OF[other] >= FLOOR_OF[room]
    }
    assert above == {}


def test_an_edit_reaches_the_network_only_through_its_control():
    models = {
        name
        for module, names in IMPORTS.items()
        if room_of(module) == "editing"
        for name in names & set(IMPORTS)
        if room_of(name) == "models"
    }
    assert models == {"imagen_mini.models.control"}


def test_only_the_text_encoder_and_a_borrowed_clip_import_transformers():
    assert {
        m
        for m, names in IMPORTS.items()
        if any(n.split(".")[0] in ("transformers", "tokenizers") for n in names)
    } == {
        "imagen_mini.text.encoder",
        "imagen_mini.text.loading",
        "imagen_mini.evaluation.pretrained_features",
        "train.text_encoder",
        "train.one_hot_encoder",
    }


def test_the_package_does_not_import_its_scripts():
    package = set().union(*(names for m, names in IMPORTS.items() if m.startswith("imagen_mini")))
    assert not {n for n in package if n.split(".")[0] in ("train", "sample", "tests")}


def forbidden_in(source):
    """Uses of pickle, torch.load, torch.save, eval and exec. Reading tensors alone is allowed."""
    found, tree = [], ast.parse(source)
    tensors_alone = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and any(ast.unparse(k) == "weights_only=True" for k in node.keywords)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("eval", "exec", "__import__")
        ):
            found.append(node.func.id)
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node) in ("torch.load", "torch.save")
            and id(node) not in tensors_alone
        ):
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
    assert forbidden_in("torch.load('x', weights_only=False)") == ["torch.load"]
    assert forbidden_in("torch.load('x', weights_only=True)") == []
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
large = ("transformers", "tokenizers", "datasets", "matplotlib", "huggingface_hub")
loaded = [m for m in large if m in sys.modules]
assert not loaded, loaded
import torch
assert not torch.cuda.is_initialized()
imagen_mini.ImagenPipeline
"""


def test_importing_everything_touches_no_network_no_device_and_no_large_library_it_does_not_need():
    modules = ", ".join(
        m
        for m in IMPORTS
        if m.startswith("imagen_mini") and "imagen_mini.viz.style" not in reached_from(m) | {m}
    )
    done = subprocess.run(
        [sys.executable, "-c", PROBE % modules], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_charts_are_reached_by_figures_alone():
    drawing = {
        m
        for m in IMPORTS
        if m.startswith("imagen_mini") and "imagen_mini.viz.style" in reached_from(m)
    }
    assert {m for m in drawing if not m.startswith("imagen_mini.viz.")} == set()
    assert {
        m
        for m in IMPORTS
        if m.startswith("imagen_mini") and any(n.split(".")[0] == "matplotlib" for n in IMPORTS[m])
    } <= drawing | {"imagen_mini.viz.style"}


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import imagen_mini

    with pytest.raises(AttributeError, match="has no attribute 'Imagen'"):
        imagen_mini.__getattr__("Imagen")


def test_scripts_that_sample_do_not_import_scripts_that_train():
    """But for the claims of the papers that are about networks trained for them."""
    found = {
        (module, name)
        for module, names in IMPORTS.items()
        if module.split(".")[0] == "sample"
        for name in names & set(IMPORTS)
        if name.split(".")[0] == "train"
    }
    assert {name for _, name in found} == {"train.variants"}
    assert all(module.startswith("sample.claims.") for module, _ in found)


def test_no_two_public_functions_share_a_name():
    """One name, one meaning. (The checks of the exercises are one function a notebook. Students see
    one assignment at a time, and the same file has the same functions in each.)
    """
    where = {}
    one_of_several = re.compile(r"(assignments\.)hw\d|(assignments\.project\.examples\.)\w+")
    for file in FILES:
        module = module_name(file)
        if room_of(module) and not module.startswith("imagen_mini.course.exercises"):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_":
                    where.setdefault(node.name, set()).add(one_of_several.sub(r"\1\2*", module))
    assert {name: modules for name, modules in where.items() if len(modules) > 1} == {}


def test_scripts_can_be_run_by_their_former_names():
    """`python -m train.card` and the like: what a course or a script of somebody wrote down."""
    for package in (train, sample):
        finder = next(f for f in sys.meta_path if getattr(f, "package", "") == package.__name__)
        assert finder.names
        for old, new in finder.names.items():
            assert new in IMPORTS and old not in IMPORTS
            assert importlib.util.find_spec(old).origin == importlib.util.find_spec(new).origin
    done = subprocess.run(
        [sys.executable, "-m", "train.scale", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "train.scale is now train.estimate_cost" in done.stderr
