"""Counts that say how easily the package's code is found, read and changed.

    python scripts/house.py [CHECKOUT] [--list NAME]

prints a table of the counts for one checkout (this one by default): shape of the folders, import
floors, tightness of the code, private interfaces, names with two meanings. `--list` prints the
places behind one row. Run it on two checkouts to compare them.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "arinar_lab"
Graph = dict[str, set[str]]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PRIVATE = {
    "Optuna": r"optuna\.storages\._|\._storage\b|\._backend\b|\._study_id\b|\._trial_id\b|_rdb\b",
    "Lightning": r"_batches_that_stepped|_signal_connector|_logger_connector|lightning\.\w+\._",
    "MLflow": r"sharedViewState|mlflow\.\w+\._|mlflow\._",
}


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, text and syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The folder below the package; a module beside the folders is a room of its own."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""


class House:
    """The modules of one checkout, and what can be counted of them."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.modules = {module.name: module for module in _modules(checkout)}

    @cached_property
    def imports(self) -> Graph:
        """Imports between modules, those inside functions included."""
        graph: Graph = {name: set() for name in self.modules}
        for module in self.modules.values():
            graph[module.name] = set(_imported(module, self.modules)) - {module.name}
        return graph

    @cached_property
    def room_imports(self) -> Graph:
        """Imports between rooms."""
        graph: Graph = defaultdict(set)
        for source, targets in self.imports.items():
            room = self.modules[source].room
            graph[room] |= {self.modules[target].room for target in targets} - {room, ""}
        graph.pop("", None)
        graph.pop("__main__", None)
        return dict(graph)

    def fullest_folder(self) -> tuple[int, list[str]]:
        """Files beside `__init__.py` in the folder that has most."""
        folders: Counter[str] = Counter()
        for module in self.modules.values():
            if module.path.name != "__init__.py":
                folders[str(module.path.parent.relative_to(self.checkout))] += 1
        lines = [f"{count:4} {folder}" for folder, count in folders.most_common()]
        return max(folders.values()), lines

    def floors_of_rooms(self) -> tuple[int, list[str]]:
        """Rooms on the longest way down from one room to the next."""
        heights = _heights(self.room_imports)
        order = sorted(heights, key=lambda room: -heights[room])
        return max(heights.values()), [f"{heights[room]:4} {room}" for room in order]

    def floors_in_a_room(self) -> tuple[str, list[str]]:
        """Files on the longest way down inside a room: the highest room, and `model`."""
        heights = {}
        for room in sorted(self.room_imports):
            names = {name for name, module in self.modules.items() if module.room == room}
            heights[room] = max(_heights({n: self.imports[n] & names for n in names}).values())
        model = heights.pop("model", 0)
        lines = [f"{height:4} {room}" for room, height in sorted(heights.items())]
        return f"{max(heights.values())} (model {model})", lines

    def circles(self) -> tuple[int, list[str]]:
        """Groups of modules that import each other."""
        groups = [" ".join(sorted(group)) for group in _groups(self.imports) if len(group) > 1]
        return len(groups), groups

    def arrows_up(self) -> tuple[int, list[str]]:
        """Imports against most imports between two rooms, and exceptions to the floors."""
        arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
        for source, targets in self.imports.items():
            for target in targets:
                pair = (self.modules[source].room, self.modules[target].room)
                if pair[0] != pair[1] and "" not in pair:
                    arrows[pair].append(f"{source} -> {target}")
        lines = self._exceptions()
        for (upper, lower), places in arrows.items():
            if len(places) < len(arrows.get((lower, upper), ())):
                lines += places
        return len(lines), lines

    def _exceptions(self) -> list[str]:
        """Imports that the contracts in `pyproject.toml` let pass."""
        settings = tomllib.loads((self.checkout / "pyproject.toml").read_text(encoding="utf-8"))
        contracts = settings["tool"].get("importlinter", {}).get("contracts", [])
        return [arrow for contract in contracts for arrow in contract.get("ignore_imports", [])]

    def tight_functions(self) -> tuple[str, list[str]]:
        """Functions of ten lines or more, docstring left out, that have no blank line."""
        long = 0
        tight = []
        for module in self.modules.values():
            for function in _functions(module.tree):
                body = _body(function, module.text.splitlines())
                long += len(body) >= 10
                if len(body) >= 10 and all(line.strip() for line in body):
                    tight.append(f"{module.path}:{function.lineno} {function.name}")
        return f"{100 * len(tight) / long:.0f} % of {long}", tight

    def comprehensions(self) -> tuple[str, list[str]]:
        """Comprehensions in 100 lines of code, a room each."""
        counts: Counter[str] = Counter()
        lines: Counter[str] = Counter()
        for module in self.modules.values():
            counts[module.room] += sum(isinstance(n, COMPREHENSIONS) for n in ast.walk(module.tree))
            lines[module.room] += _code_lines(module)
        total = 100 * counts.total() / lines.total()
        rooms = [f"{100 * counts[r] / max(lines[r], 1):6.1f} {r}" for r in sorted(lines) if r]
        return f"{total:.1f}", rooms

    def nested_comprehensions(self) -> tuple[int, list[str]]:
        """Comprehensions inside comprehensions, or over more than one `for`."""
        places = []
        for module in self.modules.values():
            for outer in ast.walk(module.tree):
                if not isinstance(outer, COMPREHENSIONS):
                    continue
                inner = any(
                    isinstance(n, COMPREHENSIONS) for n in ast.walk(outer) if n is not outer
                )
                if inner or len(outer.generators) > 1:
                    places.append(f"{module.path}:{outer.lineno}")
        return len(places), places

    def wide_lines(self) -> tuple[str, list[str]]:
        """Lines of more than 100 characters."""
        total = 0
        places = []
        for module in self.modules.values():
            lines = module.text.splitlines()
            total += len(lines)
            wide = [number for number, line in enumerate(lines, 1) if len(line) > 100]
            places += [f"{module.path}:{number}" for number in wide]
        return f"{len(places)} ({100 * len(places) / total:.1f} %)", places

    def private_lines(self) -> tuple[str, list[str]]:
        """Lines that touch a private interface of Optuna, Lightning, MLflow."""
        counts = []
        places: list[str] = []
        for pattern in PRIVATE.values():
            earlier = len(places)
            for module in self.modules.values():
                for number, line in enumerate(module.text.splitlines(), 1):
                    if re.search(pattern, line):
                        places.append(f"{module.path}:{number} {line.strip()}")
            counts.append(str(len(places) - earlier))
        return " + ".join(counts), places

    def names_with_two_meanings(self) -> tuple[int, list[str]]:
        """Public top-level functions and classes that two or more modules define."""
        places: dict[str, list[str]] = defaultdict(list)
        for module in self.modules.values():
            for node in module.tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                    places[node.name].append(module.name)
        twice = {name: where for name, where in places.items() if len(set(where)) > 1}
        return len(twice), [f"{name}: {', '.join(where)}" for name, where in sorted(twice.items())]

    def lines_of_code(self) -> tuple[str, list[str]]:
        """Files, lines, and lines with code (no blank lines, comments or docstrings)."""
        total = sum(len(module.text.splitlines()) for module in self.modules.values())
        code = sum(_code_lines(module) for module in self.modules.values())
        return f"{len(self.modules)} files, {total} lines, {code} of code", []

    def seconds_to_errors(self) -> tuple[str, list[str]]:
        """Median seconds of five imports of ConfigError, less those of an empty program."""
        home = (
            f"{PACKAGE}.errors" if f"{PACKAGE}.errors" in self.modules else f"{PACKAGE}.run.schema"
        )
        with_errors = self._seconds(f"from {home} import ConfigError")
        return f"{with_errors - self._seconds('pass'):.3f}", [home]

    def _seconds(self, program: str) -> float:
        """Median seconds that an interpreter takes for a program."""
        seconds = []
        for _ in range(5):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], cwd=self.checkout, check=True)
            seconds.append(time.perf_counter() - begin)
        return sorted(seconds)[2]


ROWS: dict[str, tuple[str, Callable[[House], tuple[object, list[str]]]]] = {
    "size": ("size of the package", House.lines_of_code),
    "folder": ("files in the fullest folder", House.fullest_folder),
    "floors": ("import floors between rooms", House.floors_of_rooms),
    "inside": ("import floors inside a room", House.floors_in_a_room),
    "circles": ("circles", House.circles),
    "arrows": ("arrows that run up", House.arrows_up),
    "tight": ("functions of ten lines or more without one blank line", House.tight_functions),
    "comprehensions": ("comprehensions in 100 lines of code", House.comprehensions),
    "nested": ("comprehensions more than one deep", House.nested_comprehensions),
    "wide": ("lines over 100 characters", House.wide_lines),
    "private": ("lines with private Optuna + Lightning + MLflow", House.private_lines),
    "names": ("public names with two meanings", House.names_with_two_meanings),
    "errors": ("seconds to import ConfigError", House.seconds_to_errors),
}


def _modules(checkout: Path) -> Iterator[Module]:
    for path in sorted((checkout / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(checkout).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        yield Module(name, path, text, ast.parse(text))


def _imported(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    """Modules of the package that a module imports, anywhere in its text."""
    is_package = module.path.name == "__init__.py"
    parents = module.name.split(".") if is_package else module.name.split(".")[:-1]
    for node in _run_nodes(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        if isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{origin}.{alias.name}"
                if target in modules:
                    yield target
                elif origin in modules:
                    yield origin


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a syntax tree without those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run_nodes(node)


def _heights(graph: Graph) -> dict[str, int]:
    """Floors of each node: one more than the highest of those it imports; a circle is one floor."""
    group_of = {name: group for group in _groups(graph) for name in group}
    heights: dict[frozenset[str], int] = {}

    def height(group: frozenset[str]) -> int:
        if group not in heights:
            below = {
                group_of[target] for name in group for target in graph[name] if target in graph
            }
            heights[group] = 1 + max((height(lower) for lower in below - {group}), default=0)
        return heights[group]

    return {name: height(group) for name, group in group_of.items()}


def _groups(graph: Graph) -> list[frozenset[str]]:
    """Strongly connected components: names that reach each other."""
    reach = {name: _reached(graph, name) for name in graph}
    groups = set()
    for name in graph:
        mutual = {other for other in reach[name] if name in reach.get(other, ())}
        groups.add(frozenset({name} | mutual))
    return list(groups)


def _reached(graph: Graph, start: str) -> set[str]:
    """Names that imports lead to from one name."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for target in graph.get(waiting.pop(), ()):
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    return reached


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _body(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> list[str]:
    """Lines of a function's statements, from the first to the last, its docstring left out."""
    statements = function.body
    if ast.get_docstring(function) is not None:
        statements = statements[1:]
    if not statements:
        return []
    return lines[statements[0].lineno - 1 : function.end_lineno]


def _code_lines(module: Module) -> int:
    """Lines that hold a part of a statement; blank lines, comments and docstrings do not count."""
    strings: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            strings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    count = 0
    for number, line in enumerate(module.text.splitlines(), 1):
        stripped = line.strip()
        count += bool(stripped) and stripped[0] != "#" and number not in strings
    return count


def main() -> None:
    """Print the table, or the places behind one row."""
    words = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    words.add_argument("checkout", nargs="?", default=Path(__file__).parent.parent, type=Path)
    words.add_argument("--list", choices=ROWS, help="print the places behind one row")
    options = words.parse_args()
    house = House(options.checkout.resolve())

    if options.list:
        _, places = ROWS[options.list][1](house)
        print("\n".join(places))
        return
    for title, count in ROWS.values():
        print(f"{title:55} {count(house)[0]}")


if __name__ == "__main__":
    main()
