"""A compiled encoder: the numbers and the files of the plain one."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from ppssl import IADM, PPSSL, FineTune, FolderDataModule, LossPlugin, MoCo, UserError, load_encoder
from ppssl.encoder import Encoder, evaluation_mode
from ppssl.utils import compiler
from processes import TESTS, finish, start
from tiny import TinyEncoder

TINY: dict[str, Any] = {"backbone": "resnet_small", "backbone_kwargs": {"width": 4}}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The batch size of each graph that is compiled; by torch's ahead-of-time autograd without a code generator."""
    sizes: list[int] = []
    aot_eager = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph: Any, inputs: Any) -> Any:
        sizes.append(next(len(x) for x in inputs if x.ndim == 4 and x.shape[-1] >= 32))
        return aot_eager(graph, inputs)

    monkeypatch.setattr(compiler, "BACKEND", backend)
    torch.compiler.reset()
    yield sizes
    torch.compiler.reset()


class Losses(Callback):
    def __init__(self) -> None:
        self.all: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *args: Any) -> None:
        self.all.append(outputs["loss"].detach())


def _fit(
    model: Any,
    images: Path,
    folder: Path,
    ckpt: Path | None = None,
    epochs: int = 2,
    **trainer: Any,
) -> list[Tensor]:
    losses = Losses()
    data = FolderDataModule(
        str(images), image_size=32, batch_size=8, num_workers=0, val_fraction=0.4, seed=0
    )
    Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[losses],
        **trainer,
    ).fit(model, data, ckpt_path=ckpt)
    return losses.all


def _model(compiled: bool, source: Any = "image") -> PPSSL:
    iadm = IADM(start=0, full=0, every=2, use="both", source=source)
    plugins: dict[str, LossPlugin] = {"iadm": iadm}
    moco = MoCo(dim=8, queue_size=10)
    return PPSSL(
        **TINY, contrastive=moco, lr=0.002, plugins=plugins, init_seed=0, compile_encoder=compiled
    )


def _checkpoint(folder: Path) -> Path:
    return max(folder.rglob("*.ckpt"))


def _assert_same(found: Any, expected: Any, **tolerance: float) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name, **tolerance)


@pytest.mark.parametrize("source", ["image", pytest.param("output", marks=pytest.mark.slow)])
def test_training_is_that_of_the_plain_encoder(
    source: str, graphs: list[int], image_folder: Path, tmp_path: Path
) -> None:
    plain, model = _model(False, source), _model(True, source)
    expected = _fit(plain, image_folder, tmp_path / "plain")
    assert graphs == []
    found = _fit(model, image_folder, tmp_path / "compiled")
    assert sorted(graphs) == [4, 8]  # two groups of keys, and queries; none in validation
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    _assert_same(model.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_files_are_those_of_the_plain_encoder(
    graphs: list[int], image_folder: Path, tmp_path: Path
) -> None:
    model = _model(True)
    _fit(model, image_folder, tmp_path / "a")
    path = _checkpoint(tmp_path / "a")
    content = torch.load(path, weights_only=True)
    assert list(content["state_dict"]) == list(_fitted_keys(image_folder, tmp_path / "b"))
    assert "_orig_mod" not in str(content)
    again = PPSSL.load_from_checkpoint(path)
    assert again.encoder.compiled
    _assert_same(again.state_dict(), model.state_dict())
    plain = PPSSL.load_from_checkpoint(path, compile_encoder=False)
    assert not plain.encoder.compiled
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_encoder(path)(images), model.encoder.eval()(images))
    # resumed: saved by the one, continued by the other
    before = len(graphs)
    assert len(_fit(_model(False), image_folder, tmp_path / "c", path, epochs=3)) == 3
    assert len(graphs) == before
    assert (
        len(_fit(_model(True), image_folder, tmp_path / "d", _checkpoint(tmp_path / "b"), 3)) == 3
    )
    assert len(graphs) > before


def _fitted_keys(images: Path, folder: Path) -> list[str]:
    _fit(_model(False), images, folder)
    return list(torch.load(_checkpoint(folder), weights_only=True)["state_dict"])


def test_only_training_steps_without_a_gradient_of_the_image_are_compiled(
    graphs: list[int],
) -> None:
    encoder = Encoder("resnet_small", kwargs={"width": 4}, compiled=True)
    with evaluation_mode(encoder):
        encoder(torch.randn(2, 3, 32, 32))
    images = torch.randn(3, 3, 32, 32, requires_grad=True)
    value = encoder.features(images).embedding.sum()
    torch.autograd.grad(value, images, retain_graph=True)
    value.backward()
    assert graphs == []
    encoder.features(images.detach())
    assert graphs == [3]
    assert encoder(images.detach()).shape == (3, encoder.info.dim)
    assert graphs == [3]


def test_a_copy_has_its_own_weights(graphs: list[int]) -> None:
    encoder = Encoder("resnet_small", kwargs={"width": 4}, compiled=True)
    images = torch.randn(2, 3, 32, 32)
    twin = copy.deepcopy(encoder)
    expected = twin(images)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    torch.testing.assert_close(twin(images), expected)
    assert not torch.allclose(encoder(images), expected)
    assert len(graphs) > 0


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow)],
)
def test_other_encoders(name: str, graphs: list[int]) -> None:
    torch.manual_seed(0)
    kwargs = {"depth": 1} if name.startswith("vit") else None
    plain = Encoder(name, image_size=64, kwargs=kwargs, batch_norm="frozen")
    encoder = copy.deepcopy(plain)
    encoder.compiled = True
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(1)
    expected = plain.features(images)
    torch.manual_seed(1)
    found = encoder.features(images)
    torch.testing.assert_close(found.embedding, expected.embedding)
    (gradient,) = torch.autograd.grad(found.embedding.square().sum(), found.map)  # pooled from it
    (wanted,) = torch.autograd.grad(expected.embedding.square().sum(), expected.map)
    torch.testing.assert_close(gradient, wanted)
    assert len(graphs) == 1


def test_many_models_in_one_process(graphs: list[int]) -> None:
    """torch keeps a number of versions of a function; a new run begins with none."""
    images = torch.randn(2, 3, 32, 32)
    with torch._dynamo.config.patch(recompile_limit=4):  # 8, unless timm.optim is there
        for width in range(4, 7):
            compiler.prepare_compiler("x", torch.device("cpu"))
            encoder = Encoder(TinyEncoder(width), compiled=True)
            encoder(images)
            with torch.no_grad():
                encoder(images)
    assert len(graphs) == 6


def test_fine_tuning(graphs: list[int], image_folder: Path, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        model = FineTune(**TINY, init_seed=0, freeze_epochs=1, compile_encoder=compiled)
        losses.append(_fit(model, image_folder, tmp_path / str(compiled)))
    assert graphs == [8]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    content = torch.load(_checkpoint(tmp_path / "True"), weights_only=True)
    assert "_orig_mod" not in str(content)


@pytest.mark.parametrize(
    "model", [_model, lambda compiled: FineTune(**TINY, compile_encoder=compiled)]
)
def test_a_missing_compiler_is_one_line(
    model: Any, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"`model.compile_encoder` needs a C\+\+ compiler"):
        _fit(model(True), image_folder, tmp_path)
    assert len(_fit(model(False), image_folder, tmp_path, epochs=1)) > 0


def test_a_missing_triton_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`x` needs the package `triton`, .* set `x: false`"):
        compiler.prepare_compiler("x", torch.device("cuda"))
    compiler.prepare_compiler("x", torch.device("mps"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_generated_code(image_folder: Path, tmp_path: Path) -> None:
    """The code that torch writes and compiles, with half precision as well."""
    for precision in ("32-true", "bf16-mixed"):
        expected, found = (
            _fit(_model(c), image_folder, tmp_path / str(c), precision=precision)
            for c in (False, True)
        )
        tolerance = 1e-3 if precision == "32-true" else 0.02
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes(image_folder: Path, tmp_path: Path) -> None:
    saved = []
    for compiled in (0, 1):
        out = tmp_path / f"{compiled}.pt"
        finish(start([sys.executable, TESTS / "compiled_run.py", image_folder, out, 2, compiled]))
        saved.append(torch.load(out, weights_only=True))
    _assert_same(saved[1], saved[0], rtol=1e-4, atol=1e-6)
