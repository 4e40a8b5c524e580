"""Waiting threads sleep: the policy is set before torch is loaded, and never against the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN = """
import importlib, os, sys
package = importlib.import_module(sys.argv[1])
assert "torch" not in sys.modules
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize("package", ["train", "sample"])
@pytest.mark.parametrize("given, expected", [(None, "passive"), ("active", "active")])
def test_scripts_wait_passively_unless_the_user_says_otherwise(package, given, expected):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("OMP_WAIT_POLICY", None)
    if given:
        environment["OMP_WAIT_POLICY"] = given
    done = subprocess.run(
        [sys.executable, "-c", SHOWN, package], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


def test_the_tests_wait_passively_too():
    assert os.environ["OMP_WAIT_POLICY"]
