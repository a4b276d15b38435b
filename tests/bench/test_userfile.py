"""Workloads and backends from a user's file: measured like our own, mistakes told by line."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import nnkernels
from nnkernels import plugins
from nnkernels.bench import harness, session
from nnkernels.bench.harness import registry
from nnkernels.bench.session import Effort, Plan, Session, hired
from nnkernels.errors import BackendUnavailableError, InputError

GOOD = """\
import numpy as np
import nnkernels
from nnkernels.bench.declare import Cost, backend, workload
from my_kernels import relu

@backend("mine")
def mine():
    return nnkernels.get_backend("numpy").replace(relu=relu)

@backend("elsewhere")
def elsewhere():
    raise nnkernels.errors.BackendUnavailableError("no such chip here")

@workload("gram", sizes={"quick": [(8, 4), (6, 2)], "default": [(64, 32)]}, tolerance=1e-5,
          tags=("square",), baselines=("plain",))
class Gram:
    def make(self, rng, rows, columns):
        return {"a": rng.standard_normal((rows, columns)), "out": np.empty((columns, columns))}

    def run(self, be, s):
        be.matmul(s.a, s.a, transpose_a=True, out=s.out)

    def plain(self, s):
        s.out[...] = s.a.T @ s.a

    def reference(self, s):
        return s.a.T @ s.a

    def cost(self, rows, columns):
        return Cost(2 * rows * columns**2, 4 * (rows * columns + columns**2), columns**2)

@workload("rectified", sizes=[100], tolerance=1e-6, dtype="float64")
class Rectified:
    def make(self, rng, n):
        return {"a": rng.standard_normal(n), "factor": 2.0, "labels": rng.integers(0, 9, n)}

    def run(self, be, s):
        return be.relu(s.a), s.labels

    def reference(self, s):
        return np.maximum(s.a, 0) * (s.factor / 2), s.labels

    def cost(self, n):
        return Cost(0, 16 * n, n)
"""
KERNELS = "import numpy as np\n\ndef relu(x, *, out):\n    np.maximum(x, 0, out=out)\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a file changes in this process outlives its test."""
    monkeypatch.setattr(registry, "_added", {})
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    monkeypatch.setattr(plugins, "_failed", dict(plugins._failed))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_kernels", raising=False)


def write(folder: Path, text: str = GOOD, name: str = "mine.py") -> Path:
    (folder / "my_kernels.py").write_text(KERNELS)
    (folder / name).write_text(text)
    return folder / name


def users(path: Path, preset: harness.Preset = "quick") -> list[harness.Case]:
    harness.add(path)
    return [c for c in harness.cases(preset) if harness.USER in c.tags]


def found_by(case: harness.Case, runner: harness.Runner) -> harness.Agreement:
    runner.reset()
    runner.run(1)
    return case.make().agreement(runner.outputs())


def test_what_a_file_declares(tmp_path: Path) -> None:
    first, second, third = users(write(tmp_path))
    assert [c.id for c in (first, second, third)] == [
        "gram[8x4]",
        "gram[6x2]",
        "rectified[100-float64]",
    ]
    assert (first.params, first.tags) == ({"rows": 8, "columns": 4}, ("user", "square"))
    assert first.cost == harness.Cost(2 * 8 * 16, 4 * (32 + 16), 16)
    assert users(tmp_path / "mine.py", "thorough")[0].id == "gram[64x32]"
    names = [c.workload for c in harness.cases("quick")]
    assert names[0] == "W1"


@pytest.mark.parametrize("backend", ["numpy", "mine"])
def test_workloads_agree_on_every_backend(tmp_path: Path, backend: str) -> None:
    for case in users(write(tmp_path)):
        problem = case.make()
        agreement = found_by(case, problem.runner(nnkernels.get_backend(backend)))
        assert agreement.ok, agreement.reason
        assert agreement.error < agreement.limit
        for name in case.baselines:
            assert found_by(case, problem.baseline(name)).ok


def test_a_backend_has_its_name_and_can_be_configured(tmp_path: Path) -> None:
    users(write(tmp_path))
    assert nnkernels.get_backend("mine(threads=1)").threads == 1
    assert nnkernels.get_backend("mine").name == "mine"
    known = plugins.availability()
    assert known["mine"] is None
    assert known["elsewhere"] == "no such chip here"
    with pytest.raises(BackendUnavailableError, match="no such chip"):
        nnkernels.get_backend("elsewhere")


def test_they_are_measured_in_workers(tmp_path: Path) -> None:
    cases = users(write(tmp_path))
    plan = Plan(cases, "quick", ["numpy", "mine"], {}, Effort(0.05, 2, 3, 0.01))

    class Silent:
        def begin(self, case, number, total) -> None: ...
        def finish(self, case, found) -> None: ...

    with hired(plan) as crew:
        made = Session(plan, crew, Silent())
        made.run()
    rows = [(r.workload, r.backend, r.status) for r in made.found]
    assert rows == [
        *[("gram", name, "ok") for name in ("numpy", "mine", "plain")] * 2,
        *[("rectified", name, "ok") for name in ("numpy", "mine")],
    ]
    assert all(r.rates.byte_s for r in made.found)


@pytest.mark.parametrize(
    ("change", "by", "reason"),
    [
        ("be.matmul(s.a, s.a, transpose_a=True, out=s.out)", "pass", "is nan"),
        ("out=s.out)", "out=s.out); s.out[1, 2] += 1", "result 0[1, 2] is "),
        ("be.matmul(s.a, s.a, transpose_a=True, out=s.out)", "s.a[...] = 0", "is nan"),
        ("return s.a.T @ s.a", "return s.a", "results of the shapes [[4, 4]], the reference"),
    ],
)
def test_wrong_results_are_never_right(tmp_path: Path, change: str, by: str, reason: str) -> None:
    assert change in GOOD
    case = users(write(tmp_path, GOOD.replace(change, by)))[0]
    agreement = found_by(case, case.make().runner(nnkernels.get_backend("numpy")))
    assert not agreement.ok
    assert reason in agreement.reason


def test_inputs_that_are_updated_are_put_back(tmp_path: Path) -> None:
    case = users(write(tmp_path, GOOD.replace("out=s.out)", "out=s.out); s.a *= 2")))[0]
    runner = case.make().runner(nnkernels.get_backend("numpy"))
    assert found_by(case, runner).ok
    assert found_by(case, runner).ok


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


@pytest.mark.parametrize(
    ("change", "by", "message"),
    [
        ("import nnkernels\n", "import nnkernels as\n", "SyntaxError"),
        ("from my_kernels", "from no_such_module", "ModuleNotFoundError: No module named"),
        ("tolerance=1e-5", "tolerance=0", "tolerance must be above 0"),
        ("(8, 4)", "(8, 0)", "whole numbers above 0"),
        ("(8, 4)", "(8,)", "make cannot be called for the size (8,)"),
        ('"quick": [', '"tiny": [', "not 'tiny'"),
        ('"default": [(64, 32)]', '"thorough": [(64, 32)]', "lack the preset 'default'"),
        ('"gram"', '"relu"', "a workload of nnkernels is called 'relu' already"),
        ('"gram"', '"rectified"', "is called 'rectified' already"),
        ('"gram"', '"a b"', "must be a word"),
        ('("plain",)', '("plane",)', "has no method plane"),
        ('("square",)', '"square"', "tags must be a tuple of texts"),
        ('"mine"', '"numpy"', "backend 'numpy' is taken by nnkernels"),
        ('"mine"', '"native"', "backend 'native' is taken by nnkernels"),
        ('"elsewhere"', '"mine"', "backend 'mine' is taken by mine.py"),
        ("relu=relu", "rely=relu", "Did you mean 'relu'"),
        ("replace(relu=relu)", "name", "'numpy' is no nnkernels.Backend"),
        ("return Cost(2 *", "return Cost(1 / 0 *", "ZeroDivisionError"),
        ("return Cost(2 *", "return (2 *", "cost must return a Cost"),
    ],
)
def test_mistakes_in_the_file_are_told_with_their_line(
    tmp_path: Path, change: str, by: str, message: str
) -> None:
    assert change in GOOD
    path = write(tmp_path, GOOD.replace(change, by, 1))
    with pytest.raises(InputError) as caught:
        users(path)
    text = str(caught.value)
    assert message in text
    assert re.match(rf"{re.escape(str(path))}:\d+: ", text), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "by", "message"),
    [
        ("rng.standard_normal((rows, columns))", "np.zeros((rows, columns))", "but zeros"),
        ("rng.standard_normal((rows, columns))", "np.full(rows, np.nan)", "is not finite"),
        ("rng.standard_normal((rows, columns))", "['x']", "must be an array of numbers"),
        ('return {"a": rng', 'return 3; {"a": rng', "must return a dict"),
        ('return {"a": rng', 'return {"a": 1 / 0, "b": rng', "ZeroDivisionError"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(
    tmp_path: Path, change: str, by: str, message: str
) -> None:
    assert change in GOOD
    path = write(tmp_path, GOOD.replace(change, by))
    with pytest.raises(InputError, match=message):
        users(path)[0].make()


def test_a_mistake_in_run_or_reference_is_told_with_its_line(tmp_path: Path) -> None:
    text = GOOD.replace("return s.a.T @ s.a", "return s.b").replace("be.matmul(", "be.matmal(")
    case = users(write(tmp_path, text))[0]
    problem = case.make()
    with pytest.raises(InputError, match=rf"mine.py:{line_of(text, 'return s.b')}: .*has no"):
        problem.agreement([np.ones(1)])
    runner = problem.runner(nnkernels.get_backend("numpy"))
    with pytest.raises(InputError, match=rf"mine.py:{line_of(text, 'be.matmal')}: .*matmul"):
        runner.run(1)


def test_a_run_without_results_is_told(tmp_path: Path) -> None:
    case = users(write(tmp_path, GOOD.replace("return be.relu(s.a), s.labels", "pass")))[2]
    with pytest.raises(InputError, match="run returned None, and make gives no 'out'"):
        found_by(case, case.make().runner(nnkernels.get_backend("numpy")))


@pytest.mark.parametrize("name", ["absent.py", "folder", "notes.txt"])
def test_what_is_no_file_of_python(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no such Python file"):
        users(tmp_path / name)


def test_a_file_that_declares_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="declares no workload and no backend"):
        users(write(tmp_path, "import nnkernels\n"))


def test_two_files_must_not_share_a_name(tmp_path: Path) -> None:
    one = write(tmp_path, GOOD[: GOOD.index("@backend")] + GOOD[GOOD.index("@workload") :])
    other = write(tmp_path, one.read_text(), "other.py")
    with pytest.raises(InputError, match=r"other.py:6: a workload of .*mine.py is called 'gram'"):
        harness.add(one), harness.add(one), harness.add(other)
    assert harness.added() == [str(one)]


def test_without_an_expression_the_users_own_are_chosen(tmp_path: Path) -> None:
    from nnkernels.bench.select import select

    harness.add(write(tmp_path))
    chosen = select(harness.cases("quick"), None)
    assert {c.workload for c in chosen} == {"gram", "rectified"}
    assert set(session.choose_backends([])[0]) >= {"numpy", "mine"}


def test_an_older_nnkernels_without_registration_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delattr(plugins, "register")
    with pytest.raises(InputError, match="takes no backends from files"):
        users(write(tmp_path))


def test_a_workload_whose_size_is_one_number_can_grow(tmp_path: Path) -> None:
    harness.add(write(tmp_path, GOOD.replace("sizes=[100]", "sizes=[100, 20, 500]")))
    (found,) = [s for s in harness.sweeps() if harness.USER in s.tags]
    assert (found.id, found.low, found.high) == ("rectified[size]", 20, 500)
    case = found.at(77)
    assert case.params == {"size0": 77} or 77 in case.params.values()
    assert case.sweep == ("rectified[size]", 77)
    assert found_by(case, case.make().runner(nnkernels.get_backend("numpy"))).ok


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(# mine\.py\n.*?)```", text, re.DOTALL)
    (gram,) = users(write(tmp_path, example))
    for backend in ("numpy", "mine"):
        assert found_by(gram, gram.make().runner(nnkernels.get_backend(backend))).ok
