"""Laws that hold for every file of the shipped source and that no linter knows; each lists all offenders."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from tests.architecture.source import FILES, PACKAGES, ROOT, calls, imported, name, tree

PICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
GLOBAL_NOISE = ("np.random.", "numpy.random.", "random.", "torch.rand", "torch.normal", "torch.manual_seed")
GENERATORS = {"np.random.Generator", "np.random.Philox", "torch.random.fork_rng"}
# torch's layers initialise themselves from the global generator and from nothing else; here it is forked and seeded.
INITIALISERS = {("toolkit/pruning/surgery.py", "torch.manual_seed")}
MOST = 20


def test_nothing_is_pickled() -> None:
    offenders = [f"{name(path)} imports {module}" for path in FILES for module in imported(path) if _pickles(module)]
    for path in FILES:
        for called, call in calls(path):
            if called not in {"torch.save", "torch.load", "np.load", "numpy.load"}:
                continue
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            unsafe = (
                called == "torch.save"
                or (called == "torch.load" and keywords.get("weights_only") != "True")
                or (called in {"np.load", "numpy.load"} and keywords.get("allow_pickle", "False") != "False")
            )
            offenders += [f"{name(path)}:{call.lineno} {called}"] if unsafe else []
    assert not offenders


def _pickles(module: str) -> bool:
    return module.split(".")[0] in PICKLING


def test_no_noise_is_drawn_from_a_global_generator() -> None:
    offenders = [
        f"{name(path)}:{call.lineno} {called}"
        for path in FILES
        for called, call in calls(path)
        if called.startswith(GLOBAL_NOISE) and called not in GENERATORS and (name(path), called) not in INITIALISERS
    ]
    assert not offenders, "noise comes from toolkit.core.noise"


def test_only_the_command_line_imports_our_code_inside_functions() -> None:
    """There it keeps torch out of ``dtk --help``; anywhere else it would hide a circle."""
    offenders = [
        f"{name(path)}:{node.lineno} {module}"
        for path in FILES
        if not name(path).startswith("toolkit/cli/")
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        for module in _modules_of(node)
        if module.split(".")[0] in PACKAGES
    ]
    assert not offenders


def _modules_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""


def test_modules_import_each_other_in_one_direction() -> None:
    """Also those of one package, which import-linter's layers do not look into."""
    modules = {_module(path): path for path in FILES}
    graph = {module: {found for found in _own(path, modules) if found != module} for module, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _own(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports when it is imported."""
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            parent = _module(path.parent) if node.level else ""
            origin = ".".join(part for part in (parent, node.module) if part)
            for alias in node.names:
                within = f"{origin}.{alias.name}"
                yield from (found for found in ((within if within in modules else origin),) if found in modules)


def test_there_are_few_packages_and_loose_modules() -> None:
    """A folder of modules, or a module at the top of one."""
    packages = {path.parent for path in FILES} - {ROOT / "toolkit"}
    loose = {path for path in FILES if path.parent == ROOT / "toolkit"} - {
        ROOT / "toolkit" / "__init__.py",
        ROOT / "toolkit" / "__main__.py",
    }
    assert len(packages | loose) <= MOST, sorted(map(name, packages | loose))


def test_no_test_imports_another() -> None:
    offenders = [
        f"{name(path)} imports {module}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if ".test_" in path.read_text(encoding="utf-8")  # to parse them all takes longer
        for module in imported(path)
        if module.startswith("tests.") and module.rsplit(".", 1)[-1].startswith("test_")
    ]
    assert not offenders


def test_there_is_source_to_judge() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES) and len(FILES) > 100
