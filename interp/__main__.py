"""`python -m interp`, and so `torchrun -m interp`: the `interp` command."""

from interp.cli import main

main()
