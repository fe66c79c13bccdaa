"""Objects as plain data and back; a checkpoint's class paths run nothing foreign."""

import builtins
import copy
import importlib
import json
import pickle
import re
import sys
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import ppssl.data
from ppssl.data import FolderDataModule, MoCoV2Augmentation
from ppssl.utils.config import Configurable, main_file_classes, not_saved, plain_items
from ppssl.utils.errors import UserError
from ppssl.utils.instantiate import instantiate, resolve_class

FOREIGN = """
import builtins
builtins._ppssl_test_imported.append(__name__)

from ppssl.utils.config import Configurable


class Evil(Configurable):
    def __init__(self):
        builtins._ppssl_test_imported.append("Evil()")
"""


class Leaf(Configurable):
    made: ClassVar[list["Leaf"]] = []

    def __init__(self, size: int, *, name: str = "leaf", rate: float | None = None) -> None:
        self.size, self.name, self.rate = size, name, rate
        Leaf.made.append(self)


class Branch(Configurable):
    def __init__(
        self, leaves: dict[str, Leaf], spare: tuple[Leaf, ...] = (), shape: list[int] | None = None
    ) -> None:
        self.leaves, self.spare, self.shape = leaves, spare, shape


class Base(Configurable):
    def __init__(self, width: int = 1, height: int = 2) -> None:
        self.width, self.height = width, height


class Middle(Base):
    """Adds nothing, so has no constructor of its own."""


class Derived(Middle):
    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root


class Closed(Derived):
    """No **kwargs: the arguments below are not its own."""

    def __init__(self, depth: int) -> None:
        super().__init__(root="fixed", width=depth)
        self.depth = depth


class Forgetful(Configurable):
    def __init__(self, kept: int = 1, lost: int = 2) -> None:
        self.kept = kept


class Wrapping(Configurable):
    def __init__(self, value: int) -> None:
        self.value = torch.nn.Parameter(torch.tensor(float(value)))


class Fixed(Base):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(3, **kwargs)


class Holder(Configurable):
    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.fixture(autouse=True)
def _imported(monkeypatch):
    """This module under its own name, as a user's is: importlib mode leaves it out where no package is."""
    module = ModuleType("ppssl_test_user_code")
    for cls in (
        *(Leaf, Branch, Base, Middle, Derived, Closed),
        *(Forgetful, Wrapping, Fixed, Holder),
    ):
        monkeypatch.setattr(cls, "__module__", module.__name__)
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Leaf, "made", [])


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module on the path, not imported; returns the list in which it leaves traces, and its name."""
    traces: list[str] = []
    monkeypatch.setattr(builtins, "_ppssl_test_imported", traces, raising=False)
    (tmp_path / "ppssl_test_foreign.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    yield traces, "ppssl_test_foreign.Evil"
    sys.modules.pop("ppssl_test_foreign", None)


def _through_plain_data(obj, tmp_path):
    """The object rebuilt from its configuration, which went through a file that torch reads safely."""
    torch.save(obj.config(), tmp_path / "config.pt")
    return instantiate(torch.load(tmp_path / "config.pt", weights_only=True))


def _kept(obj):
    """The attributes that an object's class sets."""
    return {name: value for name, value in vars(obj).items() if name != "_given_arguments"}


# ---------------------------------------------------------------- there and back


def test_an_object_comes_back_from_plain_data(tmp_path):
    leaf = _through_plain_data(Leaf(3, name="oak", rate=0.5), tmp_path)
    assert type(leaf) is Leaf
    assert _kept(leaf) == {"size": 3, "name": "oak", "rate": 0.5}


def test_nested_objects_in_dicts_and_tuples_come_back(tmp_path):
    branch = Branch({"a": Leaf(1), "b": Leaf(2, name="b")}, spare=(Leaf(3), Leaf(4)), shape=[5, 6])
    again = _through_plain_data(branch, tmp_path)
    assert {name: leaf.size for name, leaf in again.leaves.items()} == {"a": 1, "b": 2}
    assert again.leaves["b"].name == "b"
    assert isinstance(again.spare, tuple)
    assert [leaf.size for leaf in again.spare] == [3, 4]
    assert again.shape == [5, 6]
    assert again.config() == branch.config()


def test_the_configuration_of_an_object_can_be_json():
    branch = Branch({"a": Leaf(1)}, spare=[Leaf(2)], shape=[2])
    assert instantiate(json.loads(json.dumps(branch.config()))).config() == branch.config()


def test_plain_data_comes_back_as_it_is():
    data = {"a": [1, (2.5, None)], "b": {"class_path": "os.system"}, "c": True}
    assert instantiate(data) == data


def test_arguments_behind_kwargs_are_those_of_the_base_classes(tmp_path):
    derived = Derived("somewhere", height=7)
    assert derived.config()["init_args"] == {"root": "somewhere", "width": 1, "height": 7}
    assert _kept(_through_plain_data(derived, tmp_path)) == _kept(derived)


def test_without_kwargs_the_base_classes_arguments_are_left_out(tmp_path):
    closed = Closed(4)
    assert closed.config()["init_args"] == {"depth": 4}
    assert _kept(_through_plain_data(closed, tmp_path)) == _kept(closed)


def test_a_data_module_comes_back(tmp_path):
    augmentation = MoCoV2Augmentation(crop_scale=(0.5, 1.0), jitter=(0.1, 0.2, 0.3, 0.05))
    data = FolderDataModule(
        "here", image_size=32, augmentation=augmentation, on_error="skip", seed=3
    )
    again = _through_plain_data(data, tmp_path)
    assert type(again) is FolderDataModule
    assert (again.root, again.image_size, again.on_error, again.seed) == ("here", 32, "skip", 3)
    assert vars(again.augmentation) == vars(augmentation)
    assert again.config() == data.config()


@pytest.mark.parametrize("value", [0.25, True, 3, "oak"])
def test_a_scalar_of_numpy_becomes_a_plain_one(value, tmp_path):
    """``np.float64`` is a ``float`` and ``np.str_`` a ``str``, but torch refuses to load them safely."""
    kinds = [np.float32, np.float64] if isinstance(value, float) else [np.array(value).dtype.type]
    for kind in kinds:
        again = _through_plain_data(Holder([kind(value)]), tmp_path)
        assert type(again.value[0]) is type(value)
        assert again.value == [value]


def test_paths_are_taken_wherever_a_string_is(tmp_path):
    data = FolderDataModule(tmp_path / "images")
    assert data.config()["init_args"]["root"] == str(tmp_path / "images")

    class Several(Configurable):
        def __init__(self, paths):
            self.paths = paths

    config = Several([tmp_path, {"b": tmp_path}]).config()
    assert config["init_args"]["paths"] == [str(tmp_path), {"b": str(tmp_path)}]


def test_an_argument_that_is_not_kept_is_recorded(tmp_path):
    assert Forgetful(3, lost=4).config()["init_args"] == {"kept": 3, "lost": 4}
    assert Forgetful(3).config()["init_args"] == {"kept": 3}  # the default is the class's
    again = _through_plain_data(Forgetful(lost=4), tmp_path)
    assert again.config() == Forgetful(1, 4).config()
    assert copy.deepcopy(again).config() == pickle.loads(pickle.dumps(again)).config()


def test_an_argument_in_another_form_is_recorded():
    assert Wrapping(3).config()["init_args"] == {"value": 3}


def test_ours_must_keep_their_arguments(monkeypatch):
    monkeypatch.setattr(Forgetful, "__module__", "ppssl.somewhere")
    with pytest.raises(
        TypeError, match=r"`Forgetful` must keep its argument `lost` as `self.lost`"
    ):
        Forgetful().config()


def test_arguments_that_the_constructor_passes_on_itself_are_not_given_twice(tmp_path):
    fixed = Fixed(height=7)
    assert _kept(_through_plain_data(fixed, tmp_path)) == _kept(fixed)


@pytest.mark.parametrize("value", [np.zeros(2), object(), len, {1: object()}])
def test_what_is_no_plain_data_is_left_out_and_named(value):
    config = Holder([value]).config()
    assert config["init_args"] == {}
    assert config["not_saved"] == {"value": "list"}
    nested = Holder({"a": Holder(value)}).config()
    assert list(not_saved(nested)) == ["value.a.value"]
    for part in (config, nested, {"x": [nested]}):
        with pytest.raises(UserError, match=r"Holder\(value=\.\.\.\)` was a `.*pass the object"):
            instantiate(part)


def test_plain_items():
    kept = {"a": 1, "b": [1.5, "x", None], "c": {"d": True}}
    assert plain_items(kept | {"e": len, "f": [object()], "g": Leaf(1), "h": np.float64(1)}) == kept


# ---------------------------------------------------------------- what a file may name


def test_a_foreign_module_is_not_imported(foreign):
    traces, path = foreign
    with pytest.raises(
        UserError,
        match=r"ppssl_test_foreign\.Evil` is not part of ppssl.*import `ppssl_test_foreign`",
    ):
        instantiate({"class_path": path, "init_args": {}})
    assert traces == []
    assert "ppssl_test_foreign" not in sys.modules


@pytest.mark.parametrize(
    "wrap", [lambda inner: inner, lambda inner: [inner], lambda inner: {"x": (1, inner)}]
)
def test_a_foreign_class_deep_inside_stops_all_before_anything_is_made(foreign, wrap):
    traces, path = foreign
    leaf = Leaf(1).config()
    Leaf.made.clear()
    evil = {"class_path": path, "init_args": {}}
    config = {
        "class_path": Branch.__module__ + ".Branch",
        "init_args": {"leaves": {"a": leaf}, "spare": wrap(evil)},
    }
    with pytest.raises(UserError, match="not part of ppssl"):
        instantiate(config)
    assert Leaf.made == []
    assert traces == []


def test_the_same_class_is_accepted_once_its_module_is_imported(foreign):
    traces, path = foreign
    module = importlib.import_module("ppssl_test_foreign")
    assert type(instantiate({"class_path": path, "init_args": {}})) is module.Evil
    assert traces == ["ppssl_test_foreign", "Evil()"]


def test_a_name_that_only_begins_like_ours_is_foreign(tmp_path, monkeypatch):
    (tmp_path / "ppssl_evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not part of ppssl"):
        resolve_class("ppssl_evil.Evil")


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.nn.Linear",
        "ppssl.utils.results.subprocess",
        "ppssl.utils.results.write_json",
        "ppssl.utils.errors.UserError",
    ],
)
def test_only_configurable_classes_are_called(path):
    """``subprocess`` and the like are imported already; that alone does not make them ours to call."""
    with pytest.raises(UserError, match=r"cannot be rebuilt from a checkpoint"):
        instantiate({"class_path": path, "init_args": {}})


@pytest.mark.parametrize("path", ["ppssl.nowhere.Thing", "ppssl.utils.config.os.system"])
def test_a_module_of_ours_that_does_not_exist_is_said_so(path):
    with pytest.raises(UserError, match=r"this version of ppssl has no module"):
        resolve_class(path)


def test_a_class_that_is_gone_is_said_so(monkeypatch):
    with pytest.raises(UserError, match=r"`ppssl.data` has no class `NoSuch`: was it renamed"):
        resolve_class("ppssl.data.NoSuch")
    with pytest.raises(UserError, match=r"main file of another .*import NoSuch`.*backbone=\.\.\."):
        resolve_class("__main__.NoSuch", "backbone")
    monkeypatch.setattr(
        sys.modules["__main__"], "NoSuch", Leaf, raising=False
    )  # `from m import it`
    assert resolve_class("__main__.NoSuch") is Leaf


@pytest.mark.parametrize("path", ["__main__.NoSuch", "nowhere.NoSuch"])
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("backbone", "load_encoder(path, backbone=...)"),
        ("plugins", "PPSSL.load_from_checkpoint(path, plugins={...})"),
        ("contrastive", "PPSSL.load_from_checkpoint(path, contrastive=...)"),
        ("data", "evaluate(path, data)"),
    ],
)
def test_the_call_that_takes_the_object_of_a_missing_class_is_named(path, argument, call):
    missing = {"class_path": path, "init_args": {}}
    for value in (
        missing,
        {"some": [missing]},
        {"class_path": "ppssl.MoCo", "init_args": {"x": missing}},
    ):
        with pytest.raises(UserError, match=re.escape(f", or pass the object itself (`{call}`")):
            instantiate({argument: value})
        with pytest.raises(UserError, match=re.escape(f"`{call}`")):
            instantiate(value, argument)


def test_no_call_is_named_for_an_argument_that_none_takes():
    with pytest.raises(UserError) as error:
        instantiate(
            {
                "class_path": "ppssl.AIS",
                "init_args": {"teacher": {"class_path": "nowhere.NoSuch", "init_args": {}}},
            }
        )
    assert str(error.value).endswith("(`ppssl --import nowhere ...`).")


def test_classes_of_the_main_file_are_named(monkeypatch):
    monkeypatch.setattr(Leaf, "__module__", "__main__")
    config = Branch({"a": Leaf(1), "b": Leaf(2)}).config()
    assert main_file_classes(config) == {"leaves.a": "Leaf", "leaves.b": "Leaf"}
    assert main_file_classes(Leaf(1).config()) == {}  # who loads it names it himself


@pytest.mark.parametrize("path", ["Leaf", "", "."])
def test_a_path_without_a_module_is_refused(path):
    with pytest.raises(UserError, match="not part of ppssl"):
        resolve_class(path)


def test_our_modules_are_imported_when_named(monkeypatch):
    # Both are put back afterwards.
    monkeypatch.setattr(ppssl.data, "synthetic", ppssl.data.synthetic.datamodule)
    monkeypatch.delitem(sys.modules, "ppssl.data.synthetic.datamodule")
    assert (
        resolve_class("ppssl.data.synthetic.datamodule.SyntheticDataModule").__name__
        == "SyntheticDataModule"
    )
    assert resolve_class("ppssl.PPSSL").__name__ == "PPSSL"  # lazily exported
