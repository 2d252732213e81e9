"""Tests that the quick ones leave to the gate, by file: patterns of names with parameters.

Whole tests that are slow say so themselves; here are those of which only some parameters
are, and those that time showed to be. `conftest.py` marks them. Of every kind of check
something stays quick.
"""

SLOW = {
    "test_docs.py": ["."],
    "test_gradients.py": [
        r"bpda_has_the_value.*(True|sde|ode|ddim)",
        "finite_differences",
        "checkpointed_chain",
    ],
    "test_training.py": [
        "devices_do_not",
        "accumulated",
        r"loss_goes_down\[(denoiser|robust)",
        "robust_loss",
        "whole_numbers",
    ],
    "test_weights.py": [r"bundled.*(denoiser|robust)"],
    "attacks/test_apgd.py": [r"exactly.*l[12]", "last_misclassified"],
    "attacks/test_apgd_golden.py": [r"references\[(?!(ce|dlr)-L(inf|2)-gray8-20-float64)"],
    "attacks/test_bpda_golden.py": [
        r"(attack_is|mean_logits|toy_is)(?!.*float64.*def0|.*def0.*float64)"
    ],
    "attacks/test_fab_golden.py": ["minimum_norms"],
    "attacks/test_hill.py": ["verifies_on"],
    "attacks/test_properties.py": [
        r"(images_stay|no_use).*(apgd|fab|autoattack|diffattack|hammer|stadv|hill|-l[12])",
        r"(replaying|samples_of).*(apgd|fab|autoattack|diffattack|hammer|stadv|hill)",
        "row_by_itself",
    ],
    "attacks/test_run.py": ["no_use_are_told", "goes_on_with", "not_finite_is_broken"],
    "attacks/test_square_golden.py": ["as_many.*L2"],
    "attacks/test_verdict.py": ["criteria_by", "broken_at", "last_iterate"],
    "checkpoints_convert/test_convert.py": ["check_runs", "accuracy_is"],
    "checks/test_gradients.py": ["every_segment"],
    "dissect/test_scorecard.py": ["gradient_of_zero", "hides_nothing"],
    "evaluation/test_evaluate.py": ["own_draws"],
    "evaluation/test_lanes.py": ["number_of_devices", "batch_sizes"],
    "evaluation/test_records.py": ["writers_without"],
    "experiments/test_build.py": [
        r"configs_build\[(?!(digits|cifar)_bpda_replay)",
        "options_reach",
        "undefended_classifier_gets",
        "what_does_not_fit",
    ],
    "experiments/test_paper.py": ["made_up", "every_line"],
    "experiments/test_run.py": ["devices_do_not", "judged_again"],
    "faults/test_kills.py": ["."],
    "models/test_compact.py": ["grouped_convolution", "whitened", "fit_changes"],
    "models/test_golden.py": [r"tiny.*(score_sde|pesser|guided|resnet50)"],
    "models/test_layers.py": [
        r"convolution_(against_finite|takes_any|inside_a_scan|has_derivatives)",
        r"autodiffs_value.*[1-9]\]",
    ],
    "models/test_properties.py": [r"\[(unet|guided_unet|ncsnpp)"],
    "purifiers/test_properties.py": [r"compiled_batched.*\[(?!(diff|rev)pure\])"],
    "purifiers/test_purifiers.py": [
        r"gave_before\[(?!diffpure\])",
        "whole_chains",
        "resized_purifies",
        "second_half",
    ],
}
