"""What a cache can do is asked of the model: shared by several texts, and read on side by side."""

from __future__ import annotations

import pytest
from architecture_checks import Trial

from interp import Model
from interp.model.hooks import caches as caches_module
from interp.model.hooks.caches import cache_repeats, reads_side_by_side

RESID = "blocks.0.hook_resid_post"


@pytest.mark.parametrize(
    ("name", "shared"), [("llama", True), ("gemma3", True), ("qwen3_next", False), ("rwkv", False)]
)
def test_a_cache_is_shared_where_every_layer_repeats_what_it_keeps(tiny_gpt2: Model, name: str, shared: bool) -> None:
    assert cache_repeats(Trial(name, tiny_gpt2.tokenizer).model.tree) is shared


@pytest.mark.parametrize(
    ("name", "works"), [("llama", True), ("mistral_no_window", True), ("mistral", False), ("mamba", False)]
)
def test_tokens_are_read_side_by_side_where_the_mask_hides_no_window(tiny_gpt2: Model, name: str, works: bool) -> None:
    assert reads_side_by_side(Trial(name, tiny_gpt2.tokenizer).model.tree, RESID, 12) is works


def test_a_cache_that_is_repeated_in_another_order_is_found_out(
    tiny_gpt2: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the first prompt's keys under the second prompt's text."""
    right = caches_module.repeated

    def shuffled(cache: object, copies: int) -> object:
        cache = right(cache, copies)
        cache.batch_select_indices([2, 3, 0, 1])  # type: ignore[attr-defined]
        return cache

    assert cache_repeats(Trial("llama", tiny_gpt2.tokenizer).model.tree)
    monkeypatch.setattr(caches_module, "repeated", shuffled)
    assert not cache_repeats(Trial("llama", tiny_gpt2.tokenizer).model.tree)
