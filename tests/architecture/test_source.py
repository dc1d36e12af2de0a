"""Laws that hold for every file of the shipped source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.source import FILES, calls, imported, name, tree

HEAVY = {"accelerate", "diffusers", "onnx", "onnxruntime", "onnxscript", "scipy", "tensorrt", "torch", "torch_pruning"}
GLOBAL_NOISE = ("np.random.", "numpy.random.", "random.", "torch.rand", "torch.normal", "torch.manual_seed")
PICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

# The last is a program of its own, run by whoever got the handoff.
PRINTERS = ("toolkit/cli", "toolkit/__main__", "toolkit/handoff/dtk_server/client.py")

every_file = pytest.mark.parametrize("path", FILES, ids=name)


@every_file
def test_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{name(path)} has no docstring"


# torch's layers initialise themselves from the global generator and from nothing else; here it is forked and seeded.
INITIALISERS = {("toolkit/pruning/surgery.py", "torch.manual_seed")}


@pytest.mark.parametrize("path", [path for path in FILES if not name(path).startswith(PRINTERS)], ids=name)
def test_only_the_command_line_prints(path: Path) -> None:
    prints = [call.lineno for called, call in calls(path) if called in {"print", "pprint", "sys.stdout.write"}]
    assert not prints, f"{name(path)} prints at lines {prints}: report through `progress`, or return the text"


@every_file
def test_pickles_nothing(path: Path) -> None:
    found = {module for module in imported(path) if module.split(".")[0] in PICKLING}
    assert not found, f"{name(path)} imports {found}"
    for called, call in calls(path):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if called in {"np.load", "numpy.load"}:
            assert keywords.get("allow_pickle", "False") == "False", f"{name(path)}:{call.lineno}"
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", f"{name(path)}:{call.lineno} without weights_only=True"
        assert called != "torch.save", f"{name(path)}:{call.lineno} pickles with torch.save"


@every_file
def test_draws_no_noise_from_a_global_generator(path: Path) -> None:
    allowed = {"np.random.Generator", "np.random.Philox", "torch.random.fork_rng"}
    drawn = [
        f"{called} at line {call.lineno}"
        for called, call in calls(path)
        if called.startswith(
            ("np.random.", "numpy.random.", "random.", "torch.rand", "torch.normal", "torch.manual_seed")
        )
        and called not in allowed
        and (name(path), called) not in INITIALISERS
    ]
    assert not drawn, f"{name(path)}: {drawn}; noise comes from toolkit.core.noise"


@pytest.mark.parametrize("path", [path for path in FILES if path.name in {"__init__.py", "config.py"}], ids=name)
def test_settings_and_packages_import_no_framework(path: Path) -> None:
    at_import = [node for node in tree(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in at_import if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in at_import if isinstance(node, ast.ImportFrom) and node.module}
    assert not {module for module in modules if module.split(".")[0] in HEAVY}


def test_there_is_source_to_judge() -> None:
    assert len(FILES) > 20
