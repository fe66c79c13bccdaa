"""Losses and gradients of each base in one or several processes of a global batch: ``OUT/PROCESSES.pt``."""

from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from bases import BASES, batch_of, make
from ppssl.losses.contrastive import ContrastiveResult

INDEX = [7, 3, 9, 3, 11, 0, 5, 2]
"""Image 3 is there twice, in different processes if there are two."""


def measure(rank: int, world: int, name: str) -> dict[str, Any]:
    """Step of a base on this process's part of the batch; what the mean over processes is of gradients and losses."""
    encoder, base = make(name, per_image=True)
    with torch.no_grad():  # copies that have moved away
        for key, p in base.named_parameters():
            if key.startswith("key_"):
                p.add_(
                    0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
                )
    whole = batch_of(INDEX, further=(12, 20))
    part = slice(rank * len(INDEX) // world, (rank + 1) * len(INDEX) // world)
    batch = {"views": [view[part] for view in whole["views"]], "index": whole["index"][part]}
    image = batch["views"][0].requires_grad_()
    result: ContrastiveResult
    result, of_all_views = base.over_views(encoder, batch, seed=0)
    if rank == 0:  # as often as a plugin likes: no process waits for another
        torch.autograd.grad(result.loss.sum(), image, retain_graph=True)
    (at_image,) = torch.autograd.grad(result.loss.sum(), image, retain_graph=True)
    contrast = result.contrast(result.features.embedding.detach())
    trained = {
        f"{owner}.{key}": p
        for owner, module in (("encoder", encoder), ("base", base))
        for key, p in module.named_parameters()
        if p.requires_grad
    }
    at_trained = torch.autograd.grad(of_all_views.mean(), trained.values(), retain_graph=True)
    with_further = {
        key: _mean(value, world) for key, value in zip(trained, at_trained, strict=True)
    }
    result.loss.mean().backward()
    base.after_backward(result)
    base.after_step(encoder, progress=0.3, total_steps=100)
    parts = (("encoder", encoder), ("base", base))
    gradients = {
        f"{owner}.{key}": _mean(p.grad, world)
        for owner, module in parts
        for key, p in module.named_parameters()
        if p.grad is not None
    }
    rows = {"loss": result.loss, "z": result.z, "key": result.key, "contrast": contrast}
    rows["loss of all views"] = of_all_views
    found = {key: _rows(value, world) for key, value in rows.items()}
    logs = {key: _mean(value, world) for key, value in result.logs.items()}
    state = {key: value.clone() for key, value in base.state_dict().items()}
    found |= {"gradients": gradients, "gradients with further views": with_further}
    found |= {"image": _rows(at_image, world), "logs": logs, "state": state}
    return found


def _mean(value: Tensor, world: int) -> Tensor:
    value = value.detach().clone()
    if world > 1:
        distributed.all_reduce(value)
    return value / world


def _rows(value: Tensor, world: int) -> Tensor:
    value = value.detach().contiguous()
    if world == 1:
        return value
    parts = [torch.empty_like(value) for _ in range(world)]
    distributed.all_gather(parts, value)
    return torch.cat(parts)


def process(rank: int, world: int, out: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        address = f"file://{out}/rendezvous"
        distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    found = {name: measure(rank, world, name) for name in BASES}
    if rank == 0:
        torch.save(found, f"{out}/{world}.pt")
    if world > 1:
        distributed.destroy_process_group()


def processes(count: int, out: str) -> None:
    """So many processes, forked: a start of Python would take the time."""
    multiprocessing.start_processes(process, (count, out), nprocs=count, start_method="fork")
