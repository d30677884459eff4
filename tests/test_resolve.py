"""From names to classes: what there is, what may be added, and what is said when that goes wrong."""

import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.errors import RecipeError
from distill.losses.kd import KD
from distill.resolve import Catalogue, snake_case

ROOT = Path(__file__).resolve().parent.parent
LOSS = """
    from distill.losses.base import DistillLoss

    class FeatureMSE2(DistillLoss):
        pass
"""


@pytest.fixture(autouse=True)
def forget_plugins():
    """No test leaves a plugin behind for the next."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("distill_plugin_") or name.startswith("resolve_test_"):
            del sys.modules[name]


@pytest.fixture
def plugin(tmp_path):
    """plugin("file.py", source) writes a file and returns its path."""

    def write(name: str, source: str = LOSS) -> str:
        (tmp_path / name).write_text(textwrap.dedent(source), encoding="utf-8")
        return str(tmp_path / name)

    return write


def provide(monkeypatch, group: str, name: str, load) -> None:
    """As if an installed package had this entry point."""
    entry = SimpleNamespace(name=name, value=f"package:{name}", load=load)
    monkeypatch.setattr(metadata, "entry_points", lambda **wanted: [entry] if wanted == {"group": group} else [])


def test_built_ins_are_listed_without_being_imported():
    code = """
        import sys
        from distill.resolve import Catalogue
        catalogue = Catalogue()
        print(catalogue.names("losses"), catalogue.names("sources"))
        print(sorted(name for name in sys.modules if name.startswith(("distill.losses.", "distill.data.sources."))))
        print(catalogue.get("losses", "kd").__name__, "distill.losses.kd" in sys.modules, "distill.losses.at" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=True)
    losses, sources = (
        sorted(path.stem for path in (ROOT / "distill" / folder).glob("[a-z]*.py") if path.stem != "base") for folder in ("losses", "data/sources")
    )
    assert len(losses) >= 38
    assert {"imagefolder", "sample", "fashion_mnist"} <= set(sources)
    assert done.stdout.splitlines() == [
        f"{losses} {sources}",
        "['distill.data.sources.base', 'distill.losses._keyed', 'distill.losses.base']",
        "KD True False",
    ]


@pytest.mark.parametrize("kind", ["losses", "sources"])
def test_every_built_in_name_gives_a_class(kind):
    catalogue = Catalogue()
    classes = [catalogue.get(kind, name) for name in catalogue.names(kind)]
    assert len(set(classes)) == len(classes) >= 3
    assert Catalogue().get("losses", "kd") is KD


def test_plugin_file_brings_its_losses_and_sources(plugin):
    both = """
        from distill.data.sources.base import DataSource
        from distill.losses.base import DistillLoss
        from distill.losses.kd import KD  # imported, not defined here

        class Wider(DistillLoss): pass
        class Wildlife(DataSource): pass
        class Helper: pass
    """
    catalogue = Catalogue([plugin("mine.py", both)])
    assert set(catalogue.names("losses")) - set(Catalogue().names("losses")) == {"wider"}
    assert set(catalogue.names("sources")) - set(Catalogue().names("sources")) == {"wildlife"}
    assert catalogue.get("losses", "wider").__name__ == "Wider"


def test_plugin_file_named_twice_is_read_once(plugin):
    path = plugin("mine.py")
    assert "feature_mse2" in Catalogue([path, path]).names("losses")


def test_plugin_class_with_two_names_is_one_loss(plugin):
    path = plugin("mine.py", LOSS + "\n    Alias = FeatureMSE2\n")
    assert "feature_mse2" in Catalogue([path]).names("losses")


def test_plugin_class_that_others_build_on_is_no_loss_by_itself(plugin):
    path = plugin("mine.py", LOSS.replace("FeatureMSE2", "_Base") + "\n    class Real(_Base):\n        pass\n")
    assert set(Catalogue([path]).names("losses")) - set(Catalogue().names("losses")) == {"real"}


def test_plugin_class_is_found_where_pickle_looks_for_it(plugin):
    cls = Catalogue([plugin("mine.py")]).get("losses", "feature_mse2")
    assert getattr(sys.modules[cls.__module__], cls.__name__) is cls


def test_plugin_module_is_named_with_dots(plugin, tmp_path, monkeypatch):
    (tmp_path / "resolve_test_package").mkdir()
    plugin("resolve_test_package/__init__.py", "")
    plugin("resolve_test_package/extra.py")
    monkeypatch.syspath_prepend(tmp_path)
    cls = Catalogue(["resolve_test_package.extra"]).get("losses", "feature_mse2")
    assert cls.__module__ == "resolve_test_package.extra"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("KD", "kd"),
        ("FitNet", "fit_net"),
        ("FeatureMSE2", "feature_mse2"),
        ("KDLoss", "kd_loss"),
        ("MyKD", "my_kd"),
        ("Layer4Match", "layer4_match"),
        ("already_snake", "already_snake"),
    ],
)
def test_class_name_becomes_snake_case(name, expected):
    assert snake_case(name) == expected


@pytest.mark.parametrize(
    "kind, wrong, what, right",
    [("losses", "kdd", "loss", "kd"), ("losses", "fitnets", "loss", "fitnet"), ("sources", "imagefolders", "data source", "imagefolder")],
)
def test_unknown_name_gets_the_nearest_and_the_whole_list(kind, wrong, what, right):
    with pytest.raises(RecipeError) as caught:
        Catalogue().get(kind, wrong)
    message = str(caught.value)
    assert message.startswith(f"unknown {what} {wrong!r}; did you mean {right!r}? there are: ")
    assert ", ".join(Catalogue().names(kind)) in message
    assert "--plugin FILE" in message


def test_name_like_no_other_gets_no_guess():
    with pytest.raises(RecipeError) as caught:
        Catalogue().get("losses", "zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_a_loss_is_not_a_source():
    with pytest.raises(RecipeError, match="unknown data source 'kd'"):
        Catalogue().get("sources", "kd")


def test_plugin_is_offered_as_the_nearest_name(plugin):
    with pytest.raises(RecipeError, match="did you mean 'feature_mse2'"):
        Catalogue([plugin("mine.py")]).get("losses", "feature_mse")


def test_clash_with_a_built_in_names_both_places(plugin):
    path = plugin("mine.py", LOSS.replace("FeatureMSE2", "KD"))
    with pytest.raises(RecipeError) as caught:
        Catalogue([path])
    assert str(caught.value) == f"two losses are called 'kd': distill.losses.kd and {path}:KD; rename one"


def test_clash_of_two_plugins_names_both_places(plugin):
    first, second = plugin("first.py"), plugin("second.py")
    with pytest.raises(RecipeError) as caught:
        Catalogue([first, second])
    assert f"{first}:FeatureMSE2 and {second}:FeatureMSE2" in str(caught.value)


def test_a_loss_and_a_source_may_share_a_name(plugin):
    source = "from distill.data.sources.base import DataSource\n\nclass KD(DataSource): pass\n"
    assert "kd" in Catalogue([plugin("mine.py", source)]).names("sources")


@pytest.mark.parametrize(
    "source, reason", [("1 / 0", "ZeroDivisionError: division by zero"), ("def (", "SyntaxError"), ("import no_such_thing", "no_such_thing")]
)
def test_plugin_that_raises_is_named_with_its_reason(plugin, source, reason):
    path = plugin("mine.py", source)
    with pytest.raises(RecipeError) as caught:
        Catalogue([path])
    assert str(caught.value).startswith(f"--plugin {path} can't be imported: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize("source", ["", "class Loss: pass", "from distill.losses.base import DistillLoss", "from distill.losses.kd import KD"])
def test_plugin_without_a_loss_is_told_so(plugin, source):
    path = plugin("mine.py", source)
    with pytest.raises(RecipeError) as caught:
        Catalogue([path])
    assert str(caught.value) == f"--plugin {path}: no subclass of DistillLoss or DataSource is defined there, nor a Module that takes num_classes"


def test_missing_plugin_file_is_named():
    with pytest.raises(RecipeError, match=r"--plugin nowhere\.py: there is no such file"):
        Catalogue(["nowhere.py"])


@pytest.mark.parametrize("module", ["resolve_test_nowhere", "resolve_test.nowhere", ""])
def test_missing_plugin_module_is_named(module):
    with pytest.raises(RecipeError, match=f"--plugin {module} can't be imported"):
        Catalogue([module])


def test_installed_package_brings_a_loss_that_is_loaded_when_asked_for(monkeypatch):
    loaded = []
    provide(monkeypatch, "distill.losses", "theirs", lambda: loaded.append(1) or KD)
    catalogue = Catalogue()
    assert "theirs" in catalogue.names("losses")
    assert not loaded
    assert catalogue.get("losses", "theirs") is KD


def test_installed_package_that_clashes_names_both_places(monkeypatch):
    provide(monkeypatch, "distill.losses", "kd", lambda: KD)
    with pytest.raises(RecipeError, match=r"two losses are called 'kd': distill\.losses\.kd and entry point package:kd"):
        Catalogue()


def test_installed_package_that_can_not_be_loaded_is_named(monkeypatch):
    def load():
        raise ImportError("no such library")

    provide(monkeypatch, "distill.losses", "theirs", load)
    with pytest.raises(RecipeError, match="the entry point theirs = package:theirs can't be loaded: ImportError: no such library"):
        Catalogue().get("losses", "theirs")


@pytest.mark.parametrize("thing", [print, dict, 3])
def test_installed_thing_that_is_no_loss_is_refused(monkeypatch, thing):
    provide(monkeypatch, "distill.losses", "theirs", lambda: thing)
    with pytest.raises(RecipeError, match="package:theirs is not a subclass of DistillLoss"):
        Catalogue().get("losses", "theirs")
