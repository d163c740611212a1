"""A pretended GPU, for tests on a machine that has none: real numbers, computed on the CPU, under CUDA's rules.

    import pretend_gpu
    pretend_gpu.install(count=2)                    # once a process, before the product is imported
    model = load_model("smollm2-135m", "cuda")      # says cuda:0, and takes the product's CUDA branches
    with pretend_gpu.watch() as ledger: ...         # what a card would be asked for, by line

A tensor "on cuda" is a `Pretend`: a wrapper without storage around a CPU tensor. Its C++ device is PyTorch's spare
backend (PrivateUse1, so that autograd runs), its Python device says cuda. Every operator comes by `operators.call`,
which refuses what CUDA refuses (`rules`), leaves fresh memory without numbers, runs copies to pinned memory late,
raises `RaceError` where a stream was not waited for (`streams`), and writes down what a GPU would have been asked for
(`ledger`).

Not modelled: speed; the numerics of CUDA's kernels (rounding, TF32, bf16 sums, atomics, ties of topk and sort); what
CUDA lacks (sparse CSR, int16 products, more than 2**31 elements); memory that runs out; operators that autograd,
functorch or torch.compile take apart otherwise for CUDA (attention takes the way of plain operators, foreach kernels
count one by one); a tensor kept from before `module.to("cuda")`, which is left behind here and moved along there; CUDA
graphs; autocast; NCCL; fork after CUDA began; the host writing to pinned memory that is still being read.
"""

from __future__ import annotations

from .cards import CARDS
from .ledger import Ledger, watch
from .machine import install, is_installed
from .streams import RaceError
from .tensors import Pretend

__all__ = ["CARDS", "Ledger", "Pretend", "RaceError", "install", "is_installed", "watch"]
