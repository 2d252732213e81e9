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
        "replaying_a_part",
        "parameters_is_exact",
    ],
    "test_training.py": [
        "devices_do_not",
        "accumulated",
        r"loss_goes_down\[(denoiser|robust)",
        r"resumed.*(denoiser|robust)",
        "robust_loss",
        "whole_numbers",
    ],
    "test_weights.py": [r"bundled.*(denoiser|robust)"],
    "attacks/test_apgd.py": [r"exactly.*l[12]", "last_misclassified"],
    "attacks/test_apgd_golden.py": [r"references\[(?!dlr-Linf-gray8-20-float64)"],
    "attacks/test_bpda_golden.py": [
        r"(attack_is|toy_is)(?!.*float64.*def0|.*def0.*float64)",
        "mean_logits",
    ],
    "attacks/test_diffattack.py": ["without_weight"],
    "attacks/test_fab.py": [r"hyperplane.*(linf|l1)"],
    "attacks/test_fab_golden.py": ["."],
    "attacks/test_hill.py": ["verifies_on"],
    "attacks/test_properties.py": [
        r"(images_stay|no_use|no_radius).*(apgd|fab|autoattack|diffattack|hammer|stadv|hill|-l[12])",
        r"(replaying|samples_of).*(apgd|fab|autoattack|diffattack|hammer|stadv|hill)",
        "row_by_itself",
        r"(replaying|no_radius).*square",
    ],
    "attacks/test_run.py": ["no_use_are_told", "goes_on_with", "not_finite_is_broken"],
    "attacks/test_square.py": [r"sphere.*14"],
    "attacks/test_square_golden.py": ["as_many"],
    "attacks/test_verdict.py": ["criteria_by", "broken_at", "last_iterate"],
    "checkpoints_convert/test_convert.py": ["check_runs", "accuracy_is"],
    "checks/test_gradients.py": ["every_segment", r"by_its_error.*rule0"],
    "diffusion/test_chains_golden.py": [
        r"whole_purifier.*ddpm",
        r"loop_over.*(range|large)",
    ],
    "dissect/test_denoising.py": [r"ssim.*[12]\]"],
    "dissect/test_geometry.py": ["along_the_chain"],
    "dissect/test_scorecard.py": ["gradient_of_zero", "hides_nothing", "no_meaning"],
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
    "faults/test_bad_inputs.py": ["every_bad_input"],
    "faults/test_kills.py": ["."],
    "models/test_compact.py": ["grouped_convolution", "whitened", "fit_changes"],
    "models/test_golden.py": [r"tiny.*(score_sde|pesser|guided|resnet50|diffusers)"],
    "models/test_layers.py": [
        r"convolution_(against_finite|takes_any|inside_a_scan|has_derivatives)",
        r"autodiffs_value.*[1-9]\]",
    ],
    "models/test_properties.py": [
        r"\[(unet|guided_unet|ncsnpp)",
        r"both_modes.*(naf|wide|efficient|resnet|mixer)",
    ],
    "purifiers/test_properties.py": [
        r"compiled_batched.*\[(?!(diff|rev)pure\])",
        r"(randomness|gradients_are|cost_is).*\[.*, ",
    ],
    "purifiers/test_purifiers.py": [
        r"gave_before\[(?!diffpure\])",
        "whole_chains",
        "resized_purifies",
        "second_half",
    ],
}
