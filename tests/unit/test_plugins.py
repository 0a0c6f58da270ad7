import sys

import pytest

from commlib.errors import ConfigError
from commlib.plugins import load_object, nearest


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_on_the_path():
    assert load_object("collections:OrderedDict") is __import__("collections").OrderedDict
    assert load_object(" fractions:Fraction.from_float ")(0.5) == 0.5


def test_a_module_in_the_current_folder_which_comes_last_on_the_path(tmp_path):
    (tmp_path / "my_agent_here.py").write_text("class Mine: pass\n")
    assert load_object("my_agent_here:Mine").__name__ == "Mine"
    assert sys.path[-1] == str(tmp_path)


def test_a_file_wherever_it_lies(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "beside_it.py").write_text("NUMBER = 3\n")
    (tmp_path / "deep" / "my_file_there.py").write_text("from beside_it import NUMBER\nclass Mine: number = NUMBER\n")
    mine = load_object("./deep/my_file_there.py:Mine")
    assert mine.number == 3
    assert sys.modules[mine.__module__].Mine is mine
    assert load_object(f"{tmp_path}/deep/my_file_there.py:Mine") is mine


BROKEN = {
    "no_colon": "names no object; write",
    "only:": "names no object",
    ":only": "names no object",
    "no_such_package_x:A": "there is no module 'no_such_package_x'; is its folder on PYTHONPATH",
    "json.no_such:A": "there is no module 'json.no_such'",
    "collections:OrderedDikt": "collections has no 'OrderedDikt'; did you mean OrderedDict",
    "collections:OrderedDict.fromkey": "has no 'fromkey'; did you mean fromkeys",
    "wants_more:A": "wants_more needs no_such_package_y, which is not installed",
    "wants_more.py:A": "wants_more.py needs no_such_package_y, which is not installed",
    "no_python:A": "no_python cannot be imported: line 2 is not Python",
    "./no_python.py:A": "no_python.py cannot be imported: line 2 is not Python",
    "falls_over:A": "falls_over cannot be imported: ZeroDivisionError in line 3: division by zero",
    "falls_over.py:A": "falls_over.py cannot be imported: ZeroDivisionError in line 3",
    "falls_ovr.py:A": "falls_ovr.py; did you mean falls_over.py",
    "zzz.py:A": "zzz.py; check its folder",
    "random.py:A": "another module is called 'random' already; give random.py a name of its own",
    "empty_one:A": "empty_one has no 'A'; it is empty",
}


@pytest.mark.parametrize(("target", "sentence"), BROKEN.items())
def test_each_failure_is_one_sentence(target, sentence, tmp_path):
    (tmp_path / "wants_more.py").write_text("import no_such_package_y\n")
    (tmp_path / "no_python.py").write_text("x = 1\nclass:\n")
    (tmp_path / "falls_over.py").write_text("def f():\n    # here\n    return 1 / 0\nf()\n")
    (tmp_path / "random.py").write_text("A = 1\n")
    (tmp_path / "empty_one.py").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_object(target)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_import_can_be_repaired_and_tried_again(tmp_path):
    path = tmp_path / "halfway_there.py"
    path.write_text("A = 1 / 0\n")
    with pytest.raises(ConfigError):
        load_object("./halfway_there.py:A")
    path.write_text("A = 'the second text'\n")
    assert load_object("./halfway_there.py:A") == "the second text"


def test_nearest_neighbours():
    assert nearest("gide", ["guide", "_gide", "maze"]) == "did you mean guide?"
    assert nearest("x", ["maze", "guide"]) == "there are guide, maze"
