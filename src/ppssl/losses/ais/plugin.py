"""AIS as a loss plugin: distillation of CLIP over a text corpus (:ref:`F3 <f3>`, :ref:`D5 <d5>` to :ref:`D8 <d8>`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ppssl.functional import student_log_probabilities
from ppssl.losses.ais.callback import AISCallback
from ppssl.losses.ais.head import TAU_BOUNDS, StudentHead
from ppssl.losses.ais.targets import Control, Targets, make_targets
from ppssl.losses.ais.trained_corpus import TrainedCorpus
from ppssl.losses.loss_plugin import LossPlugin, LossTerm, TrainingStep, check_dim, numbered_images
from ppssl.text.bank import TextBank, open_bank, ranked
from ppssl.text.corpus import TextCorpus
from ppssl.text.metadata import METADATA_CORPORA
from ppssl.text.teachers.base import Teacher
from ppssl.text.teachers.load import load_teacher, teacher_name
from ppssl.utils.checks import check_choice, check_range
from ppssl.utils.errors import UserError

if TYPE_CHECKING:
    from ppssl.data.datamodule import FineGrainedDataModule
    from ppssl.encoder import EncoderInfo

__all__ = ["AIS"]


class AIS(LossPlugin):
    """Anti-Interference Strategy: distillation of CLIP over a corpus of fine-grained descriptions.

    ``L_AIS = mean KL(P || Q)``: P is the teacher's distribution over the corpus for the original image, Q that of the
    student for its view (:func:`ppssl.functional.text_bank_distillation`). Images and descriptions are not paired
    (:ref:`D8 <d8>`). The teacher's embeddings come from a :class:`~ppssl.text.bank.TextBank`, which is made once before
    training.

    Args:
        corpus: The descriptions: a ``.txt``, ``.csv``, ``.tsv`` or ``.jsonl`` file, a packaged corpus (``birds``), or
            another name that :meth:`~ppssl.text.corpus.TextCorpus.load` accepts (``class-names``, ``cub-attributes``).
        corpus_column: Column of a ``.csv``, ``.tsv`` or ``.jsonl``; other corpora have none.
        teacher: A CLIP or SigLIP as hub id or local folder, ``synthetic-clip`` for the packaged teacher, a file of the
            same kind, or a :class:`~ppssl.text.teachers.base.Teacher` of your own.
        loss_weight: lambda_A. With a strong teacher larger values did better on synthetic birds
            (experiments/RESULTS.md).
        warmup_fraction: Fraction of the training in which lambda_A rises linearly from 0.
        teacher_temperature: tau_T (:ref:`D5 <d5>`): a number, ``"teacher"`` for that of the teacher, or
            ``"auto"`` for the one that gives ``perplexity``.
        perplexity: Mean perplexity of P for ``"auto"``, as a fraction of the corpus size, with ``top_k`` and all views.
        whiten: Whiten texts and images by the covariance of the corpus, with this ridge (a fraction of its largest
            eigenvalue), so that what all descriptions share does not decide the similarities; ``None``: do not.
        centre_hubs: Subtract the mean similarity of each description over the training set (:ref:`D6 <d6>`).
        top_k: Number of most similar descriptions that keep their probability; ``None``: all.
        head: Student head W: ``"linear"`` or a two-layer ``"mlp"``.
        teacher_views: Number k of fixed crops of each image for the teacher; P is their average (:ref:`D7 <d7>`).
        online: Run the teacher on the augmented view in each step; the bank gives tau_T and hubs only.
        memory_map: Leave the image embeddings on disk; otherwise they are read into memory.
        bank_dir: Folder of the banks; ``None``: ``$PPSSL_CACHE/banks`` or ``~/.cache/ppssl/banks``.
        control: Control experiment in place of AIS: ``"random_texts"`` uses orthogonal directions as descriptions,
            ``"rotated_texts"`` turns T by a random rotation, which keeps the similarities of descriptions, and
            ``"shuffled_images"`` permutes v over the images. (v without a corpus: :class:`~ppssl.Distillation`.)
    """

    watcher = AISCallback

    def __init__(
        self,
        corpus: str,
        *,
        corpus_column: str | None = None,
        teacher: str | Teacher = "openai/clip-vit-base-patch16",
        loss_weight: float = 3.0,
        warmup_fraction: float = 0.0,
        teacher_temperature: float | Literal["auto", "teacher"] = "auto",
        perplexity: float = 0.1,
        whiten: float | None = None,
        centre_hubs: bool = True,
        top_k: int | None = None,
        head: Literal["linear", "mlp"] = "linear",
        teacher_views: int = 1,
        online: bool = False,
        memory_map: bool = True,
        bank_dir: str | None = None,
        control: Control = "none",
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.corpus_column = corpus_column
        self.teacher = teacher
        self.loss_weight = loss_weight
        self.warmup_fraction = warmup_fraction
        self.teacher_temperature = teacher_temperature
        self.perplexity = perplexity
        self.whiten = whiten
        self.centre_hubs = centre_hubs
        self.top_k = top_k
        self.head = head
        self.teacher_views = teacher_views
        self.online = online
        self.memory_map = memory_map
        self.bank_dir = bank_dir
        self.control = control
        self._check()
        self._teacher_dim: int | None = None
        self._targets: Targets | None = None
        self._trained: TrainedCorpus | None = None
        self.last_choice: Tensor | None = None

    def _check(self) -> None:
        check_range(">= 0", loss_weight=self.loss_weight)
        check_range("in [0, 1]", warmup_fraction=self.warmup_fraction)
        check_range("in (0, 1)", perplexity=self.perplexity)
        check_range("> 0", whiten=self.whiten)
        check_range(">= 1", teacher_views=self.teacher_views, top_k=self.top_k)
        check_choice(get_args(Control), control=self.control)
        check_choice(("linear", "mlp"), head=self.head)
        if not isinstance(self.teacher_temperature, str):
            check_range("> 0", teacher_temperature=self.teacher_temperature)

    # -- building -------------------------------------------------------------------------------------------------

    @property
    def uses_bank(self) -> bool:
        """For the teacher."""
        return True

    def prepare(self, data: FineGrainedDataModule, device: torch.device | str = "cpu") -> None:
        """Find or make the bank, for a data module after its ``setup``; the teacher runs on ``device``.

        Raises:
            UserError: See :func:`~ppssl.text.bank.open_bank` and :meth:`~ppssl.text.corpus.TextCorpus.load`.
        """
        data = numbered_images(data, self)
        corpus = self.load_corpus(data)
        # Loading a model draws random numbers: with or without, the run is the same.
        with isolate_rng():
            bank = open_bank(
                self.teacher,
                corpus,
                data,
                views=self.teacher_views,
                folder=self.bank_dir,
                memory_map=self.memory_map,
                device=device,
            )
            self.attach(bank)
            if self.online:
                self.targets.online = load_teacher(self.teacher).to(device)

    def load_corpus(self, data: FineGrainedDataModule) -> TextCorpus:
        """The descriptions, for a data module after its ``setup``; errors are those of :meth:`prepare`."""
        root = getattr(data, "root", None)  # modules of files keep their folder under that name
        return TextCorpus.load(self.corpus, self.corpus_column, data.classes, root)

    def attach(self, bank: TextBank) -> None:
        """Use a bank for training. It is not part of the module: neither in checkpoints nor in DDP buffers.

        Raises:
            UserError: The student head is there already, for embeddings of another length.
        """
        if hasattr(self, "student"):
            check_dim(self, self._teacher_dim, bank.texts.shape[1])
        self._targets = make_targets(
            bank,
            teacher_temperature=self.teacher_temperature,
            perplexity=self.perplexity,
            centre_hubs=self.centre_hubs,
            top_k=self.top_k,
            control=self.control,
            online=self.online,
            whiten=self.whiten,
        )
        self._teacher_dim = bank.texts.shape[1]
        texts, titles = self._targets.texts.half().cpu(), self._targets.titles
        if self._trained is not None:
            self._trained.warn_if_replaced(titles, self.corpus)
        self._trained = TrainedCorpus(titles, texts, self._targets.whitening)
        tau, name = self._targets.temperature, teacher_name(self.teacher)
        rank_zero_info(f"AIS: {len(bank.texts)} descriptions, tau_T {tau:.3g} ({name}).")

    def sizes(self) -> dict[str, Any]:
        """Embedding length of the teacher, which the student head is made with, and the corpus for :meth:`describe`."""
        if self._teacher_dim is None:
            return {}
        corpus = {} if self._trained is None else self._trained.to_plain()
        return {"teacher_dim": self._teacher_dim} | corpus

    def restore_sizes(self, sizes: Mapping[str, Any]) -> None:
        """See :meth:`sizes`; a bank that is there already remains."""
        self._teacher_dim = sizes["teacher_dim"]
        trained = TrainedCorpus.from_plain(sizes)
        if self._targets is None:
            self._trained = trained
        elif trained is not None:
            trained.warn_if_replaced(self._targets.titles, self.corpus)

    def build(self, encoder: EncoderInfo) -> None:
        """Create the student head; needs the bank."""
        if self._teacher_dim is None:
            raise UserError(
                "AIS has no bank yet: train with a Trainer and a data module of ppssl, or call `prepare(data)` first."
            )
        self.student = StudentHead(encoder.dim, self._teacher_dim, self.head)
        self._normalisation = encoder.mean, encoder.std

    # -- training -------------------------------------------------------------------------------------------------

    @property
    def targets(self) -> Targets:
        """Targets of the distillation.

        Raises:
            RuntimeError: There is no bank yet.
        """
        if self._targets is None:
            raise RuntimeError("AIS has no bank: call `prepare(data)` before training.")
        return self._targets

    def weight(self, progress: float) -> float:
        """lambda_A: a linear rise during the warm-up."""
        if progress >= self.warmup_fraction:
            return self.loss_weight
        return self.loss_weight * progress / self.warmup_fraction

    def forward(self, step: TrainingStep) -> LossTerm:
        """KL(P || Q) of each image, ``(B,)`` float32."""
        targets = self.targets
        s, v = self.student(step.embedding), targets.embeddings(step, *self._normalisation)
        tau = self.student.temperature
        p = targets.probabilities(v)
        log_q = student_log_probabilities(s, targets.texts, temperature=tau)
        return LossTerm(F.kl_div(log_q, p, reduction="none").sum(dim=1), self._logs(p, log_q, tau))

    def _logs(self, p: Tensor, log_q: Tensor, tau: Tensor) -> dict[str, Tensor]:
        """Relative entropies of P and Q, tau_S, and how often P and Q have the same maximum."""
        p, log_q = p.detach(), log_q.detach()
        most = math.log(p.shape[1])
        self.last_choice = log_q.argmax(dim=1)
        return {
            "entropy_teacher": torch.special.entr(p).sum(dim=1).mean() / most,
            "entropy_student": torch.special.entr(log_q.exp()).sum(dim=1).mean() / most,
            "tau_student": tau.detach(),
            "agreement": (self.last_choice == p.argmax(dim=1)).float().mean(),
        }

    # -- after training -------------------------------------------------------------------------------------------

    def describe(
        self, embeddings: Tensor, corpus: TextCorpus | Sequence[str] | None = None, *, k: int = 3
    ) -> list[list[tuple[str, float]]]:
        """The best-matching descriptions of embeddings, by the student head.

        Args:
            embeddings: p, ``(B, D)``.
            corpus: Descriptions, or the name or file of a corpus, whose embeddings come from a bank or, if there is
                none, from the text encoder of the teacher; ``None``: the training corpus, which checkpoints hold with
                its embeddings.
            k: Number of descriptions for each image.

        Returns:
            For each image k pairs of a description (its first phrasing) and its probability, most likely first.

        Raises:
            UserError: An earlier checkpoint, which does not hold its corpus, and that cannot be loaded.
        """
        titles, texts = self._embedded(corpus)
        return ranked(self.student_sees(embeddings, texts.float()), titles, k)

    def _embedded(self, corpus: TextCorpus | Sequence[str] | None) -> tuple[list[str], Tensor]:
        """Titles and text embeddings of a corpus; ``None``: that of the training, which earlier checkpoints lack."""
        if corpus is None and self._trained is not None:
            return self._trained.titles, self._trained.texts
        if corpus is None and self.corpus in ("class-names", *METADATA_CORPORA):
            raise UserError(
                f"The corpus `{self.corpus}` comes from the data set, and this earlier checkpoint does not hold it: "
                "give the descriptions, `describe(images, corpus=[...])`."
            )
        if corpus is None:
            corpus = TextCorpus.load(self.corpus, self.corpus_column)
        elif isinstance(corpus, str):
            corpus = TextCorpus.load(corpus)
        elif not isinstance(corpus, TextCorpus):
            corpus = TextCorpus(corpus)
        texts = open_bank(self.teacher, corpus, None, folder=self.bank_dir).texts
        if self._trained is not None and self._trained.whitening is not None:
            texts = self._trained.whitening.texts(texts)
        return corpus.titles, texts

    @torch.no_grad()
    def student_sees(self, embeddings: Tensor, texts: Tensor) -> Tensor:
        """Q, ``(B, M)`` float32, of embeddings p ``(B, D)`` over texts ``(M, e)`` like the targets'; no gradient."""
        s = self.student(embeddings)
        tau = self.student.log_temperature.clamp(*TAU_BOUNDS).exp()
        return student_log_probabilities(s, texts.to(s.device), temperature=tau).exp()
