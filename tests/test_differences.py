"""Every row of docs/differences.md has a test: here are their names, and those that stand nowhere else."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import compared
import pytest
import torch
import zoo
from results import continuation, translation

import inseq

QUIET: dict[str, Any] = {"show_progress": False}
TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "differences.md"

DEFINED = "targets::as_a_step_score_and_as_a_target_of_every_kind_of_method"
SLOW = "properties::equals_its_slow_definition"
NO_CONTRAST = "contrast_errors::what_cannot_be_compared_is_named"
BAD = "bad_input::bad_input_is_named"

ROWS = {
    "`crossentropy`, `perplexity` of one text": DEFINED,
    "`perplexity`": "differences::perplexity_is_one_over_the_probability",
    "`pcxmi`": "contrast::information_is_above_zero_where_the_context_helps",
    "`in_context_pvi`": "contrast::information_is_above_zero_where_the_context_helps",
    "`mc_dropout_prob_avg`": "targets::dropout_averages targets::dropout_does_not_depend_on_batch_or_order_and_converges",
    "`top_p_size`": "targets::top_p_size",
    "`rank`, `margin`": "targets::rank targets::margin",
    "a step function that returns a wrong shape, NaN, integers, or has no gradient": (
        f"diagnoses::bad_targets_are_diagnosed {NO_CONTRAST}"
    ),
    "merging steps to spans": "aggregators::step_scores_merge_by_their_own_rule",
    "functions registered by users": (
        "register::ours_by_name_and_by_decorator compat::an_old_function_costs_one_plain_forward_for_each_step"
    ),
    "embeddings in `args`": "compat::the_embeddings_of_args_are_what_the_model_takes",
    "contrastive functions without a contrast": NO_CONTRAST,
    "several texts, or methods that expand the batch (integrated gradients, ...)": (
        f"{DEFINED} contrast::alignments_of_several_texts"
    ),
    "default alignment": "align::the_automatic_alignment",
    '`"auto"`': "contrast::alignments_of_several_texts contrast::the_alignment_is_shown_and_explicit_pairs_go_first",
    "pairs outside the sequence, or two for one step": NO_CONTRAST,
    "compared tokens": "contrast::the_alignment_is_shown_and_explicit_pairs_go_first",
    "cost": "contrast::a_contrast_costs_one_forward_for_all_texts",
    "`kl_divergence` as target": f"{DEFINED} {NO_CONTRAST}",
    "`contrast_force_inputs`": (
        "contrast::forced_inputs_compare_with_the_contrast_s_own_context contrast::what_forcing_changes"
    ),
    "warnings": "contrast::what_is_always_zero_is_noted",
    "other prompt of a decoder-only output that ends with the end token": (
        "contrast::a_contrast_of_a_decoder_only_model_ends_as_the_output_does"
    ),
    "`contrast_sources` alone": "contrast::another_source_alone_compares_the_output_with_itself",
    "`occlusion`": f"{SLOW} differences::a_token_that_hinders_has_a_sign",
    "`lime`": f"{SLOW} properties::lime_recovers_a_linear_target_and_says_how_well",
    "`deeplift`": f"{SLOW} deeplift::scores_sum_to_the_change_from_the_baseline",
    "`value_zeroing`": f"{SLOW} internals::values_are_zeroed_for_the_chosen_heads",
    "random methods": "properties::the_seed_decides_the_draws guest::after_success guest::python_s_own_random_state",
    "`reagent`": "surrogates::reagent_s_scores_are_shares_and_it_says_what_converged",
    "`sequential_integrated_gradients`": "gradient_methods::sequential_ways_are_complete_token_by_token",
    "`discretized_integrated_gradients`": "properties::batch_order_and_chunks_change_no_number",
    "layer methods": "gradient_methods::several_layers_are_as_each_alone",
    "convergence of integrated gradients": "properties::integrated_gradients_are_complete",
    "baselines": "baselines::tokens_texts_ids_and_functions perturbation::hiding_equals_a_plain_forward_with_a_mask",
    "attention weights": "internals::sdpa_models_give_what_eager_models_give",
    "method options": "api::options_given_at_load api::options_reach_method_target_and_step_score",
    "half precision": "devices::half_precision_gives_scores_in_float32 properties::bfloat16",
    "generated output": "api::the_generated_ids_themselves_are_attributed",
    "a padding token inside the text (`pad = eos`)": "api::padding_that_is_also_the_end_drops_no_token",
    "`attr_pos_end` of an encoder-decoder": "api::a_window_is_the_same_columns",
    "positions out of range": BAD,
    "Marian, Pegasus with scaled embeddings": "models::logits_are_those_of_the_model_s_own_forward",
    "separate embeddings of encoder and decoder": "models::logits_are_those_of_the_model_s_own_forward",
    "decoder-only texts of unequal length": "api::texts_of_unequal_length_are_as_if_alone",
    "prompts generated from, with `return_generation_output`": (
        "conversions::prompts_of_one_length_share_a_batch_in_the_order_given"
    ),
    "tokenizers that add a start token": "api::a_tokenizer_that_adds_bos_is_simply_right",
    "texts longer than the model": BAD,
    "empty input": f"{BAD} text::what_is_no_text_is_named",
    "`subwords`": "aggregators::pieces_become_words aggregators::a_character_of_several_pieces_is_one",
    "spans, words": "aggregators::spans_equal_a_plain_loop merging::a_span_over_the_start_keeps_its_explained_part",
    "`a - b`, `pair`": "merging::a_pair_is_this_one_minus_the_other",
    "`contrast_prob_diff` and `perplexity` over a span": "aggregators::step_scores_merge_by_their_own_rule",
    "`seq[2]`, `seq[:4]`": "aggregators::some_tokens_of_the_source aggregators::some_tokens_of_the_prompt",
    "`sum` of outputs": "aggregators::differences_sums_and_copies",
    "`weight_attributions` of a container": "differences::a_weighted_container_is_returned",
    "options of an aggregation that nobody takes": "result::errors_name_the_remedy",
    "options that change no number (`internal_batch_size`, `perturbations_per_eval`, caches)": (
        "drop_in::a_readme_s_first_call drop_in::occlusion_s_former_options"
    ),
    "`return_convergence_delta`": "drop_in::a_readme_s_first_call",
    "`register_model_config`": "drop_in::a_model_config_is_accepted",
    "`default_attributed_fn_id`": "drop_in::the_default_target_can_be_set",
    "a call's `device` after an error": "drop_in::a_call_on_another_device_comes_back",
    "`explain` of what was registered later": "differences::what_is_registered_later_is_explained",
    "`generation_args` beside given outputs": "differences::idle_generation_arguments_are_noted",
    "unknown arguments": BAD,
    "caller's lists, tokenizer, `generation_args`": "guest::after_success guest::after_an_error_or_an_interruption",
    "`load_model` without a method": "differences::a_model_without_a_method_takes_saliency",
    "devices": "differences::any_device_of_torch bad_input::bad_models",
    "`aggregate().show()`": "result::a_second_aggregation_changes_nothing differences::what_is_aggregated_can_be_shown",
    "`rescale=True`": "differences::rescaling_replaces_normalisation",
    "default aggregation functions": "differences::defaults_belong_to_each_result",
    "files": (
        "saving::everything_comes_back_by_every_ending saving::pickles_are_not_opened "
        "inseq_files::the_scores_are_those_that_inseq_saved inseq_files::steps_are_made_of_the_sequences_as_they_hold_the_same"
    ),
    "compressed files": "saving::everything_comes_back_by_every_ending",
    "`split_sequences=True`": "saving::no_part_is_written_where_one_is_there",
    '`scores_precision="float8"`': (
        "saving::rounding_errs_no_more_than_stated saving::scores_are_rounded_and_nothing_else "
        "saving::integers_infinities_and_smaller_floats_stay"
    ),
    "windows of encoder-decoders in Inseq's files": "inseq_files::a_window_is_put_under_its_tokens",
    "listings of methods": "api::listings_are_in_order",
    "existing files": "cli::existing_files_are_replaced_where_that_is_wanted",
    "`--aggregate_output`": "cli::existing_files_are_replaced_where_that_is_wanted",
    "`--config` of `attribute-dataset`": "cli::a_configuration_file_gives_defaults",
    "`-s` of `attribute`": "cli::the_flags_of_inseq_are_taken cli::attribute_shows_and_writes",
    "`attribute-dataset`": (
        "dataset::a_stopped_run_goes_on_where_it_was dataset::a_bad_row_is_a_row_with_its_error "
        "dataset::two_processes_do_not_write_one_directory"
    ),
    "asking at a prompt": "context::nobody_is_asked_unless_it_is_wanted",
    "splitting a generated output": "context::a_generated_output_is_split_at_the_template_s_own_words",
    "context sensitivity by `kl_divergence`": (
        "context::both_steps_equal_their_definitions_on_a_decoder_only_model "
        "context::both_steps_equal_their_definitions_on_an_encoder_decoder"
    ),
    "texts of `attribute-context`": "context::forced_and_generated_outputs_are_the_same",
    "literal braces in templates and texts": "context::braces_are_themselves",
    "`contextless_input_current_text` without `{current}`": "context::what_is_read_without_context_may_be_anything",
    "a run without any context": "context::what_cannot_be_done_is_said",
    "the saved JSON with both contexts": "context::results_are_saved_loaded_and_shown",
    "what the template says before a generated text": "context::what_the_template_says_before_a_generated_text_is_forced",
}
"""The first cell of each row, and its tests: the file and the function, without their ``test_``."""


def _rows() -> list[str]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1].strip() for line in lines]
    return [cell for cell in cells if cell not in ("what", "---")]


@cache
def _functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / f"test_{file}.py").read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_every_row_names_tests_that_exist() -> None:
    assert _rows() == list(ROWS)
    for row, tests in ROWS.items():
        for test in tests.split():
            file, name = test.split("::")
            assert f"test_{name}" in _functions(file), f"{row}: {test}"


def test_perplexity_is_one_over_the_probability() -> None:
    model = compared.load("gpt2")
    (one,) = model.attribute("w1", "w1 w2 w3", method="dummy", step_scores=["perplexity", "probability"], **QUIET)
    torch.testing.assert_close(one.step_scores["perplexity"], 1 / one.step_scores["probability"])


def test_a_token_that_hinders_has_a_sign() -> None:
    model, arguments = compared.load("gpt2"), {"method": "occlusion", **QUIET}
    (forced,) = model.attribute("w1 w2 w3", "w1 w2 w3 w4 w5 w6", **arguments)
    (written,) = model.attribute("w1 w2 w3", generation_args={"max_new_tokens": 3}, **arguments)
    assert forced.signed
    assert (compared.scores(forced) < 0).any()
    assert (compared.scores(written) > 0).any()


def test_a_weighted_container_is_returned() -> None:
    one = translation(step_scores={"probability": torch.tensor([0.5, 0.25])})
    expected = one.aggregate().source_attributions * torch.tensor([0.5, 0.25])
    out = inseq.FeatureAttributionOutput([one])
    assert out.weight_attributions("probability") is out
    assert torch.allclose(out[0].source_attributions, expected)


def test_what_is_registered_later_is_explained(registered: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def halved(args: Any) -> Any:
        """Half of something."""

    inseq.explain(registered(halved))
    assert "Half of something." in capsys.readouterr().out


def test_idle_generation_arguments_are_noted() -> None:
    arguments = {"generation_args": {"max_new_tokens": 3}, **QUIET}
    note = "generation_args have no effect: the outputs were given"
    assert note in compared.load("gpt2").attribute("w1", "w1 w2", **arguments).info["notes"]
    assert note not in compared.load("gpt2").attribute("w1", **arguments).info["notes"]


def test_a_model_without_a_method_takes_saliency() -> None:
    assert inseq.load_model(zoo.build("gpt2"), tokenizer=zoo.tokenizer("words")).method == "saliency"


def test_any_device_of_torch() -> None:
    """Of those that this machine has for certain; with its number, and as a device."""
    for device in ("cpu:0", torch.device("cpu")):
        model = inseq.load_model("demo/gpt2", device=device)
        assert model.device.type == "cpu"
        model.device = device
        assert model.attribute("Hello", generation_args={"max_new_tokens": 1}, **QUIET)[0].generated


def test_what_is_aggregated_can_be_shown() -> None:
    (found,) = compared.load("gpt2").attribute("w1", "w1 w2", granular=True, **QUIET)
    page = found.aggregate().show(display=False, return_html=True)
    assert page is not None
    assert "w2" in page


def test_rescaling_replaces_normalisation() -> None:
    out = continuation(normalize=True)
    found = out.aggregate(rescale=True)
    assert out.target_attributions is not None
    assert found.target_attributions is not None
    torch.testing.assert_close(found.target_attributions, out.target_attributions / 0.7, equal_nan=True)


def test_defaults_belong_to_each_result() -> None:
    """A gradient result, which is folded by a norm, leaves another one's mean alone."""
    model, texts = compared.load("gpt2"), ("w1 w2", "w1 w2 w3 w4")
    before = model.attribute(*texts, method="attention", granular=True, **QUIET)
    first = before.aggregate("scores")
    assert model.attribute(*texts, granular=True, **QUIET)[0].reduce_by == ("vnorm",)
    assert before.aggregate("scores") == first
    assert before[0].reduce_by == ("mean", "mean")
