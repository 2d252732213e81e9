"""Specs: text becomes things and back; what is wrong is told in a line, and where."""

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpure import specs
from jaxpure.attacks import ATTACKS, BALLS, Apgd, Linf, Pgd
from jaxpure.attacks.balls import check_ball
from jaxpure.data import SOURCES
from jaxpure.diffusion import SCHEDULES, STEP_RULES, Cosine, Ddim, Ddpm, Linear
from jaxpure.errors import UserError
from jaxpure.gradients import GRADIENTS, Surrogate
from jaxpure.models import ARCHITECTURES, WideResNet
from jaxpure.purifiers import PURIFIERS, DiffPure, Resized
from jaxpure.specs import Spec, SpecError, build, parse, set_option, spec_of


def predict(x, t):
    return 0.1 * x + 0 * t


def purifier(text):
    return build(PURIFIERS, text, denoiser=predict)


def test_a_spec_is_a_call_of_the_constructor():
    assert build(ATTACKS, "pgd(step_size=8.5/255,num_steps=20)") == Pgd(8.5 / 255, 20)
    assert build(ATTACKS, " apgd ( num_restarts = 5 , rho=.5 ) ") == Apgd(
        num_restarts=5, rho=0.5
    )
    assert build(BALLS, "linf(8/255)") == Linf(8 / 255)
    assert build(ARCHITECTURES, "wide_resnet(depth=28,width=10)") == WideResNet(28, 10)
    assert build(SCHEDULES, "cosine(num_timesteps=4000)") == Cosine(4000)
    assert build(STEP_RULES, "ddim(eta=0.5,clip=true)") == Ddim(eta=0.5, clip=True)


def test_specs_nest_and_what_they_cannot_say_is_handed_down():
    found = purifier("diffpure(t_star=50,step_rule=ddim(eta=0.5,num_steps=10))")
    assert isinstance(found, DiffPure) and found.denoiser is predict
    assert found.step_rule == Ddim(eta=0.5, num_steps=10)
    found = purifier("resized(purifier=diffpure(t_star=5),image_size=16)")
    assert isinstance(found, Resized) and found.purifier.denoiser is predict
    rule = build(GRADIENTS, "surrogate(diffpure(t_star=7))", denoiser=predict)
    assert isinstance(rule, Surrogate) and rule.cheap.t_star == 7


def test_an_object_is_returned_as_it_is():
    attack = Pgd()
    assert build(ATTACKS, attack) is attack


@pytest.mark.parametrize("registry", [ATTACKS, BALLS, SCHEDULES, STEP_RULES, GRADIENTS])
def test_every_option_of_a_registry_has_a_type(registry):
    registry.check()


@pytest.mark.parametrize(
    ("registry", "text", "written"),
    [
        (ATTACKS, "pgd", "pgd"),
        (ATTACKS, "pgd(step_size=2/255,num_steps=50)", "pgd"),
        (ATTACKS, "pgd(8.5/255,20)", "pgd(step_size=8.5/255,num_steps=20)"),
        (ATTACKS, "autoattack(version=rand)", "autoattack(version=rand)"),
        (BALLS, "linf(8/255)", "linf(eps=8/255)"),
        (STEP_RULES, "ddpm(variance=fixed_small)", "ddpm(variance=fixed_small)"),
        (SCHEDULES, "linear()", "linear"),
    ],
)
def test_a_thing_is_written_as_what_builds_its_equal(registry, text, written):
    thing = build(registry, text)
    assert spec_of(thing, registry) == written
    assert build(registry, written) == thing


@settings(deadline=None)
@given(st.floats(min_value=1e-9, max_value=1.0, allow_nan=False))
def test_numbers_are_read_back_to_the_bit(value):
    ball = Linf(value)
    assert build(BALLS, spec_of(ball, BALLS)).eps == value


@given(st.text(st.characters(codec="ascii", exclude_characters="'"), min_size=1))
def test_text_is_read_back_whatever_it_holds(text):
    assert specs.read(specs.write(text, str), str, "text") == text


def test_one_option_is_set_and_nested_ones_by_their_path():
    assert set_option(ATTACKS, "pgd", ["num_steps"], "3") == "pgd(num_steps=3)"
    assert set_option(ATTACKS, "pgd(0.1,9)", ["num_steps"], "3") == (
        "pgd(step_size=0.1,num_steps=3)"
    )
    text = set_option(PURIFIERS, "diffpure(t_star=50)", ["step_rule", "clip"], "true")
    assert purifier(text).step_rule == Ddpm(clip=True)
    with pytest.raises(SpecError, match="no options of its own"):
        set_option(ATTACKS, "pgd", ["num_steps", "x"], "3")
    with pytest.raises(SpecError, match="unknown option .*'num_step'.*Did you mean"):
        set_option(ATTACKS, "pgd", ["num_step"], "3")


def test_parsing_keeps_the_text_of_values():
    assert parse("f(1,a=g(b=2,c=[1,2]),d='x,y')") == Spec(
        "f", ("1",), {"a": "g(b=2,c=[1,2])", "d": "'x,y'"}
    )


WRONG = [
    (ATTACKS, "pgd(num_steps=3", "character 4 is not closed"),
    (ATTACKS, "pgd(num_steps=3))", "character 17 closes nothing"),
    (ATTACKS, "pgd)", "character 4 closes nothing"),
    (ATTACKS, "pgd(num_steps=(3)", "is not closed"),
    (ATTACKS, "pgd(num_steps=[3)", "closes nothing that is open"),
    (ATTACKS, "pgd(loss='margin)", "is open"),
    (ATTACKS, "", "expected a name"),
    (ATTACKS, "   ", "expected a name"),
    (ATTACKS, "(num_steps=3)", "expected a name"),
    (ATTACKS, "pgd(num_steps=3) x", "after the closing bracket"),
    (ATTACKS, "pgd(num_steps=3)(4)", "after the closing bracket"),
    (ATTACKS, "pgd(,)", "nothing between two commas"),
    (ATTACKS, "pgd(num_steps=3,,momentum=1)", "nothing between two commas"),
    (ATTACKS, "pgd(num_steps=)", "'num_steps' has no value"),
    (ATTACKS, "pgd(num_steps=3,num_steps=4)", "given twice"),
    (ATTACKS, "pgd(0.1,step_size=0.2)", "given twice"),
    (ATTACKS, "pgd(num_steps=3,0.1)", "follows named options"),
    (ATTACKS, "pgd(3 = num_steps)", "cannot be an option's name"),
    (ATTACKS, "pdg", "Did you mean 'pgd'"),
    (ATTACKS, "PGD", "known: pgd, apgd"),
    (ATTACKS, "3", "unknown attack '3'"),
    (ATTACKS, "pgd(num_stpes=3)", "Did you mean 'num_steps'"),
    (ATTACKS, "pgd(eps=8/255)", "unknown option of attack pgd 'eps'"),
    (ATTACKS, "apgd(num_queries=3)", "unknown option of attack apgd 'num_queries'"),
    (ATTACKS, "pgd(num_steps=3.5)", "num_steps=3.5, expected a whole number"),
    (ATTACKS, "pgd(num_steps=ten)", "expected a whole number"),
    (ATTACKS, "pgd(num_steps=none)", "expected a whole number"),
    (ATTACKS, "pgd(num_steps=0)", "num_steps=0, expected a finite number at least 1"),
    (ATTACKS, "pgd(num_steps=-3)", "num_steps=-3, expected"),
    (ATTACKS, "pgd(step_size=0)", "step_size=0.0, expected a finite number above 0"),
    (ATTACKS, "pgd(step_size=nan)", "step_size=nan, expected a finite number"),
    (ATTACKS, "pgd(step_size=inf)", "step_size=inf, expected a finite number"),
    (ATTACKS, "pgd(step_size=1/0)", "expected a number, as in 0.5 or 8/255"),
    (ATTACKS, "pgd(step_size=8/255/2)", "expected a number"),
    (ATTACKS, "pgd(step_size=)", "has no value"),
    (ATTACKS, "pgd(momentum=-1)", "momentum=-1.0, expected"),
    (ATTACKS, "pgd(momentum=nan)", "momentum=nan, expected a finite number"),
    (ATTACKS, "pgd(random_start=yes)", "expected true or false"),
    (ATTACKS, "pgd(criterion=all)", "unknown value 'all'; known: most, any"),
    (ATTACKS, "pgd(iterate=lst)", "Did you mean 'last'"),
    (ATTACKS, "square(num_queries=0)", "num_queries=0, expected"),
    (ATTACKS, "square(p_init=2)", "at most 1"),
    (ATTACKS, "apgd(rho=1.5)", "at most 1"),
    (ATTACKS, "autoattack(version=std)", "known: standard, plus, rand"),
    (ATTACKS, "pgd(1,2,3,margin,loss,true,0,most,best,9)", "10 values without a name"),
    (BALLS, "linf", "ball linf needs eps, as in linf(eps=...)"),
    (BALLS, "linf(8)", "eps=8.0, expected"),
    (BALLS, "linf(-0.1)", "eps=-0.1, expected"),
    (BALLS, "l3(1)", "known: linf, l2, l1, flow"),
    (PURIFIERS, "diffpure(t_star=0)", "t_star=0, expected"),
    (PURIFIERS, "diffpure(step_rule=3)", "unknown step rule '3'"),
    (PURIFIERS, "diffpure(step_rule=ddim(eta=2))", "step rule ddim: eta=2.0, expected"),
    (PURIFIERS, "diffpure(step_rule=ddim(et=0))", "option of step rule ddim 'et'"),
    (PURIFIERS, "diffpure(step_rule=dim)", "Did you mean 'ddim'"),
    (PURIFIERS, "diffpure(denoiser=x)", "unknown option of purifier diffpure 'denoiser'"),
    (PURIFIERS, "resized(image_size=8)", "purifier resized needs purifier"),
    (GRADIENTS, "surrogate", "gradient surrogate needs cheap"),
    (GRADIENTS, "bpda(2)", "takes no options"),
    (SCHEDULES, "linear(num_timesteps=0)", "num_timesteps"),
    (SOURCES, "digits(indices=3)", "expected a list, as in [1,2]"),
]


@pytest.mark.parametrize(("registry", "text", "said"), WRONG, ids=[w[1] for w in WRONG])
def test_a_wrong_spec_gives_one_line(registry, text, said):
    given = {"denoiser": predict} if registry in (PURIFIERS, GRADIENTS) else {}
    with pytest.raises(UserError) as caught:
        build(registry, text, **given)
    message = str(caught.value)
    assert said in message and os.linesep not in message


def test_the_wrong_ball_for_an_attack_is_named_with_the_right_ones():
    with pytest.raises(UserError, match="stadv attacks in flow, not in linf"):
        check_ball("stadv", Linf(0.1), ("flow",))


def test_a_function_has_no_text():
    with pytest.raises(TypeError, match="no text form"):
        spec_of(Pgd(loss=lambda logits, label: logits[label]), ATTACKS)
    assert math.isclose(specs.read("8/255", float, "x"), 8 / 255)
    assert build(SCHEDULES, "linear") == Linear()
