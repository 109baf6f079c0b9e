"""The flags of each command, in the spelling of Inseq 0.7.1 and in ours. Nothing heavy is imported here."""

from __future__ import annotations

from inseq.cli.parser import CommandParser, whole_number

DEMO_TEXT = "我喜歡機器學習和人工智慧。"
SPELLING = """\
Flags may be written with - in place of _. Where [true|false] is left out, the
flag is true; --no_quiet is --quiet false."""


def attribute_flags(parser: CommandParser) -> None:
    """Add the flags of ``inseq attribute``."""
    parser.section("texts")
    parser.flag("--input_texts -i --input TEXT", list, help="The texts to attribute.")
    parser.flag("--generated_texts -g --generated TEXT", list, help="The outputs to explain, in place of generating them.")
    _add_model(parser)
    _add_generation(parser)
    _add_explanation(parser)
    _add_aggregation(parser)
    parser.flag("--aggregate_output", bool, False, "Save aggregated scores.")
    parser.section("output")
    parser.flag("--save_path -o --output PATH", help="The file in which the result is saved.")
    parser.flag("--viz_path --html PATH", help="The file in which a page for a browser is saved.")
    parser.flag("--hide_attributions --hide", bool, False, "Do not print the result.")
    _add_running(parser)
    _add_verbosity(parser)


def attribute_dataset_flags(parser: CommandParser) -> None:
    """Add the flags of ``inseq attribute-dataset``."""
    parser.section("data set")
    parser.flag(
        "--dataset_name -d --dataset NAME", help="A .csv, .tsv, .jsonl, .json, .parquet or .txt file, or a name of the hub."
    )
    parser.flag("--input_text_field -in --input NAME", default="text", help="The field with the input text.")
    parser.flag(
        "--generated_text_field -gen --generated NAME", help="The field with the output to explain, in place of generating it."
    )
    parser.flag("--limit N", int, help="Read at most N rows.")
    parser.flag("--dataset_config NAME", help="The configuration, of a data set of the hub.")
    parser.flag("--dataset_dir --dir PATH", help="The directory, of a data set of the hub.")
    parser.flag("--dataset_files --files PATH", list, help="The files, of a data set of the hub.")
    parser.flag("--dataset_split --split NAME", default="train", help="The split, of a data set of the hub.")
    parser.flag("--dataset_revision --revision NAME", help="The revision, of a data set of the hub.")
    parser.flag("--dataset_auth_token --auth TOKEN", help="A token of the hub.")
    parser.flag("--dataset_kwargs JSON", dict, {}, "Further arguments of datasets.load_dataset.")
    _add_model(parser)
    _add_generation(parser)
    _add_explanation(parser)
    parser.section("output")
    parser.flag("--save_path -o --output PATH", help="The directory of the run, in which every row has a file.")
    _add_running(parser)
    _add_verbosity(parser)
    _add_unused_by_datasets(parser)


def _add_unused_by_datasets(parser: CommandParser) -> None:
    """Accept what ``attribute-dataset`` of Inseq 0.7.1 has, to say what to do in its place or because it changes nothing."""
    parser.section(None)
    parser.flag("--attribution_selectors INDEX", list)
    parser.flag("--attribution_aggregators NAME", list)
    parser.flag("--aggregate_output", bool, False)
    parser.flag("--viz_path --html PATH")
    parser.flag("--normalize_attributions", bool, False)
    parser.flag("--rescale_attributions", bool, False)
    parser.flag("--hide_attributions --hide", bool, False)


def attribute_context_flags(parser: CommandParser) -> None:
    """Add the flags of ``inseq attribute-context``, which are the fields of ``AttributeContextArgs``."""
    parser.section("texts")
    parser.flag("--input_current_text TEXT", default="", help="The text that the output answers, translates or continues.")
    parser.flag("--input_context_text TEXT", help="The context before it.")
    parser.flag(
        "--input_template TEMPLATE",
        help="How the two are joined; '{context} {current}' with a context, '{current}' without.",
    )
    parser.flag("--output_context_text TEXT", help="The beginning of the output, where that is context too.")
    parser.flag("--output_current_text TEXT", help="The output to examine, in place of generating it.")
    parser.flag("--output_template TEMPLATE", help="How the two parts of the output are joined; as --input_template.")
    parser.flag("--contextless_input_current_text TEMPLATE", help="The input without context; '{current}' by default.")
    parser.flag(
        "--contextless_output_current_text TEMPLATE",
        help="The output without context; '{current}' by default, and text before that is the beginning.",
    )
    parser.flag("--special_tokens_to_keep TOKEN", list, [], "Special tokens that belong to the text.")
    parser.flag(
        "--decoder_input_output_separator TEXT", default=" ", help="The text between a decoder-only model's input and output."
    )
    parser.flag(
        "--handle_output_context_strategy NAME",
        default="auto",
        help="How a generated context is split from the output: auto, manual (ask) or pre (refuse).",
    )
    _add_model(parser)
    parser.section("generation")
    parser.flag("--generation_kwargs JSON", dict, {}, "Arguments of generation.")
    parser.section("context sensitivity")
    parser.flag(
        "--context_sensitivity_metric NAME", default="kl_divergence", help="The contrastive step function that selects tokens."
    )
    parser.flag(
        "--context_sensitivity_std_threshold X",
        float,
        1.0,
        "Select tokens X standard deviations above the mean.",
    )
    parser.flag("--context_sensitivity_topk N", int, help="Select at most N tokens.")
    parser.flag("--contextless_output_next_tokens TOKEN", list, [], "The tokens to compare with, one for each selected token.")
    parser.flag("--prompt_user_for_contextless_output_next_tokens", bool, False, "Ask for the tokens to compare with.")
    _add_attribution(parser)
    parser.flag("--attribution_std_threshold X", float, 1.0, "Show cues X standard deviations above the mean.")
    parser.flag("--attribution_topk N", int, help="Show at most N cues.")
    _add_aggregation(parser)
    parser.section("output")
    parser.flag("--save_path -o --output PATH", help="The file in which the result is saved.")
    parser.flag("--viz_path --html PATH", help="The file in which a page for a browser is saved.")
    parser.flag("--show_viz", bool, True, "Print the result.")
    parser.flag("--show_intermediate_outputs", bool, False, "Print the attributions of both steps, too.")
    parser.flag("--add_output_info", bool, True, "Save the arguments with the result.")
    _add_running(parser)


def show_flags(parser: CommandParser) -> None:
    """Add the arguments of ``inseq show``."""
    parser.add_argument("path", metavar="PATH", help="A saved result, or that of attribute-context.")
    parser.add_argument("--text", type=whole_number, metavar="N", help="Show the Nth text only, counted from 1.")
    parser.add_argument(
        "--token",
        type=whole_number,
        metavar="N",
        help="Show what the Nth explained token depends on; -1 is the last one.",
    )
    parser.add_argument("--top", type=whole_number, metavar="N", help="List the N strongest input tokens.")
    parser.add_argument("--tsv", action="store_true", help="Write all scores as tab-separated values.")
    parser.add_argument("--html", metavar="PATH", help="Write a page in place of showing the result.")
    parser.add_argument("--open", action="store_true", help="Open the page in a browser.")


def demo_flags(parser: CommandParser) -> None:
    """Add the arguments of ``inseq demo``."""
    parser.add_argument(
        "text",
        nargs="?",
        default=DEMO_TEXT,
        metavar="TEXT",
        help=f"A Chinese sentence of the demonstration's controlled language. Default: {DEMO_TEXT}",
    )
    parser.add_argument(
        "--method",
        "-a",
        default="saliency",
        metavar="NAME",
        help='The attribution method; see `inseq methods`. Default: "saliency".',
    )
    parser.add_argument("--save", metavar="PATH", help="The file in which the page is saved.")


def _add_model(parser: CommandParser) -> None:
    parser.section("model")
    parser.flag("--model_name_or_path -m --model NAME", help="A hub name, a local directory, demo/zh-en or demo/gpt2.")
    parser.flag("--device --dev NAME", help="A torch device; CUDA where there is one by default.")
    parser.flag("--model_kwargs JSON", dict, {}, "Arguments of the model's from_pretrained.")
    parser.flag("--tokenizer_kwargs JSON", dict, {}, "Arguments of the tokenizer's from_pretrained.")


def _add_generation(parser: CommandParser) -> None:
    parser.section("generation")
    parser.flag("--generation_kwargs JSON", dict, {}, "Arguments of generation.")
    parser.flag("--max_new_tokens N", int, help="Generate at most N tokens.")
    parser.flag(
        "--generate_from_target_prefix",
        bool,
        False,
        "Go on from the generated texts, in an encoder-decoder.",
    )
    parser.flag("--batch_size -bs N", int, 8, "Attribute N texts at a time.")


def _add_attribution(parser: CommandParser) -> None:
    parser.section("attribution")
    parser.flag("--attribution_method -a --method NAME", default="saliency", help="The method; see `inseq methods`.")
    parser.flag("--attributed_fn -fn --target NAME", help="The step function to attribute; the probability by default.")
    parser.flag("--attribution_kwargs --options JSON", dict, {}, "Options of method and step functions.")


def _add_explanation(parser: CommandParser) -> None:
    _add_attribution(parser)
    parser.flag("--attribute_target", bool, False, "Score the generated prefix, too, and not an encoder's source alone.")
    parser.flag("--start_pos N", int, help="The first position to explain.")
    parser.flag("--end_pos -e N", int, help="The position after the last one to explain.")
    parser.flag("--include_eos_baseline --eos", bool, False, "Replace end tokens in the baseline, too.")
    parser.flag("--step_scores --step_score NAME", list, help="Step functions to record.")
    parser.flag("--s -s NAME", list, help="A name is --step_scores; a number is --start_pos, as in Inseq 0.7.1.")
    parser.flag("--alternatives N", int, 0, "Record the N most probable tokens for each explained one.")
    parser.flag("--output_step_attributions", bool, False, "Keep an output for each step, too.")


def _add_aggregation(parser: CommandParser) -> None:
    parser.section("aggregation")
    parser.flag("--attribution_aggregators NAME", list, help="Aggregators, or aggregation functions, from left to right.")
    parser.flag("--attribution_selectors INDEX", list, help="Indices along the last axis, the one before it and so on.")
    parser.flag("--normalize_attributions", bool, False, "Make the scores of a token sum to 1.")
    parser.flag("--rescale_attributions", bool, False, "Divide scores by the largest.")


def _add_running(parser: CommandParser) -> None:
    parser.flag("--overwrite", bool, False, "Replace existing files.")
    parser.flag("--quiet -q", bool, False, "Write no progress and no remarks to standard error.")
    parser.epilog = SPELLING
    parser.flag("--config PATH", help="A TOML file with values for flags; those on the command line win.")


def _add_verbosity(parser: CommandParser) -> None:
    parser.flag("--verbose -v", bool, False, "Accepted as in Inseq 0.7.1; changes nothing.")
    parser.flag("--very_verbose -vv", bool, False, "Accepted as in Inseq 0.7.1; changes nothing.")
