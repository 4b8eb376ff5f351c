"""The tree keeps its promises: layers, packages, sizes, documented commands."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"tle": "engine", "tle.kernels": "kernels", "tle.cli": "cli", "tle.benchmarks": "benchmarks"}
# What a layer may import of the others; a layer may always import itself.
ALLOWED = {
    "kernels": set(),
    "engine": {"kernels"},
    "cli": {"engine", "kernels"},
    "benchmarks": {"engine", "kernels", "cli"},
}
SOURCES = [path for folder in FOLDERS.values() for path in sorted((ROOT / folder).rglob("*.py"))]


def layer_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ("kernels", "cli", "benchmarks") else "engine"


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"tle(\.\w+)+", node.value)
        ):
            found.add(node.value)  # names that are imported when they are first used
    return {module for module in found if module == "tle" or module.startswith("tle.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = path.relative_to(ROOT).parts[0]
    for module in imported_modules(path):
        assert layer_of(module) in ALLOWED[own] | {own}, f"{path.relative_to(ROOT)} imports {module}"


def test_every_folder_with_an_init_is_packaged():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inner)))
    assert sorted(listed) == sorted(found)


def test_the_top_level_is_as_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    tops = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    visible = {top for top in tops if not top.startswith(".")}
    documents = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "docs"}
    assert visible - documents == {"pyproject.toml", "engine", "kernels", "benchmarks", "tests", "cli"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_large_to_know(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("arguments", [None, ["--help"], ["extract", "--help"], ["--version"]])
def test_help_and_import_load_nothing_heavy(arguments):
    code = "import sys, tle\n"
    if arguments is not None:
        code += f"from tle.cli.main import main; main({arguments!r})\n"
    code += "print(sorted({'torch', 'torchvision', 'sklearn', 'scipy', 'onnx', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def flags_of(command):
    """Names of all arguments of a command, as its help shows them."""
    from tle.cli.main import app

    arguments = app[command].assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True)
    shown = (argument for argument in arguments if argument.names != ("*",))  # a group of flags is none itself
    return {name: argument.parameter.help for argument in shown for name in argument.names}


def readme_commands():
    """Every `tle ...` command line that the README shows, in indented or fenced blocks."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    shown = [line.split("  #")[0].strip().removeprefix("$ ") for line in lines if line.startswith("    ")]
    return [part for line in shown for part in line.split(" && ") if part.startswith("tle ")]


def test_the_readme_shows_every_command():
    from tle.cli.main import COMMANDS

    shown = {shlex.split(command)[1] for command in readme_commands()}
    assert shown >= set(COMMANDS)


def test_every_flag_of_the_readme_exists():
    from torch.distributed.run import get_args_parser as torchrun_parser

    from tle.benchmarks import cache, crash, extract, finetune, finetune_crash, fuzz_cache, heads
    from tle.cli.main import COMMANDS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {"--help", "--version"}.union(*(flags_of(command) for command in COMMANDS))
    benchmarks = (cache, crash, extract, finetune, finetune_crash, fuzz_cache, heads)
    parsers = [benchmark._parser() for benchmark in benchmarks]
    for parser in (*parsers, torchrun_parser()):
        known |= {flag for action in parser._actions for flag in action.option_strings}
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
    assert mentioned <= known, f"unknown flags in README.md: {sorted(mentioned - known)}"
    for command in readme_commands():
        words = shlex.split(command)
        flags = {word for word in words[2:] if re.match(r"-[a-zA-Z]|--", word)}
        assert flags <= set(flags_of(words[1])) | {"--help"}, command


def test_every_command_and_every_flag_has_help():
    from tle.cli.main import COMMANDS, app

    for command in COMMANDS:
        assert app[command].help, command
        assert all(flags_of(command).values()), f"{command}: {flags_of(command)}"
