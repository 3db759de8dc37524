"""One answer is cut out of the text around it; none, two, half of one and what was not allowed are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from owled_ros.driving.answer import Light, Scene
from owled_ros.driving.answers.cutting import Cutting, cut
from owled_ros.driving.prediction import Generation, Reason, judge_scene
from owled_ros.driving.wording import AnswerError, plain

PLANNING = Cutting(begin="<PLANNING>", end="</PLANNING>")
TALKATIVE = Cutting(begin="<PLANNING>", end="</PLANNING>", prose=True)
LABELLED = Cutting(label_needed=True, prose=True)
LISTED = Cutting(brackets=True, prose=True)


@pytest.mark.parametrize(
    ("text", "cutting", "answer", "reasoning"),
    [
        ("KEEP", Cutting(), "KEEP", ""),
        ("  KEEP\n", Cutting(), "KEEP", ""),
        ("<think>red light</think>STOP", Cutting(), "STOP", "red light"),
        ("<think>\n\n</think>\n\nSTOP", Cutting(), "STOP", ""),
        ("red light</think> STOP", Cutting(reasoning_opened=True), "STOP", "red light"),
        ("red light</think> STOP", Cutting(), "STOP", "red light"),  # the template opened it
        ("<r>why</r>STOP", Cutting(reasoning_start="<r>", reasoning_end="</r>"), "STOP", "why"),
        ("<PLANNING>[1, 2]</PLANNING>", PLANNING, "[1, 2]", ""),
        ("<think>or <PLANNING>?</think><PLANNING>[1, 2]</PLANNING>", PLANNING, "[1, 2]", "or <PLANNING>?"),
        (
            "The way is free. <PLANNING> [1, 2]</PLANNING> Good luck.",
            TALKATIVE,
            "[1, 2]",
            "Good luck.\nThe way is free.",
        ),
        ("[1, 2]</PLANNING>", Cutting(end="</PLANNING>"), "[1, 2]", ""),  # the prompt opened it
        ("<PLANNING>[1, 2]", Cutting(begin="<PLANNING>"), "[1, 2]", ""),  # a stop string ended it
        ("```\nKEEP\n```", Cutting(), "KEEP", ""),
        ("```json\n[1, 2]\n```", Cutting(), "[1, 2]", ""),
        ("```KEEP```", Cutting(), "KEEP", ""),
        ("Here you are:\n```text\nKEEP\n```\nBye", Cutting(prose=True), "KEEP", "Here you are:\nBye"),
        ("Answer: KEEP", Cutting(), "KEEP", ""),
        ("**Answer:** KEEP", Cutting(), "KEEP", ""),
        ("**Final answer**: 'KEEP'", Cutting(), "KEEP", ""),
        ("It is red.\nanswer: STOP", LABELLED, "STOP", "It is red."),
        ("It is red.\n  Action: STOP", Cutting(labels=("action",), prose=True), "STOP", "It is red."),
        ("Answer:\n```\nKEEP\n```", Cutting(), "KEEP", ""),
        ('"KEEP"', Cutting(), "KEEP", ""),
        ("\u201cKEEP\u201d", Cutting(), "KEEP", ""),
        ("**`KEEP`**", Cutting(), "KEEP", ""),
        ("KEEP Reason: the way is free", Cutting(explanation="Reason:"), "KEEP", "the way is free"),
        (
            "Sure, here it is: [(1, 2), (3, 4)]. Drive well!",
            LISTED,
            "[(1, 2), (3, 4)]",
            "Sure, here it is:\n. Drive well!",
        ),
        ("points [1, 2], [3, 4] at 2 Hz", LISTED, "[1, 2], [3, 4]", "points\nat 2 Hz"),
    ],
)
def test_the_answer_and_what_was_around_it(text, cutting, answer, reasoning):
    assert cut(text, cutting) == (answer, reasoning)


@pytest.mark.parametrize(
    ("text", "cutting", "words"),
    [
        ("", Cutting(), "no answer"),
        ("<think>red</think>", Cutting(), "no answer"),
        ("<think>red light, so I", Cutting(), "never ends"),
        ("<think>red light. STOP", Cutting(reasoning_opened=True), "never ends"),
        ("STOP", Cutting(reasoning_opened=True), "never ends"),
        ("<think>a</think>STOP<think>b</think>GO", Cutting(), "2 times"),
        ("<think>a<think>b</think>STOP", Cutting(), "2 times and ends 1"),
        ("</think>STOP<think>", Cutting(), "stands before"),
        ("I think <think>a</think>STOP", Cutting(), "prose is not allowed"),
        ("[1, 2]", PLANNING, "0 times"),
        ("<PLANNING>[1, 2]", PLANNING, "0 times"),
        ("<PLANNING>[1, 2]</PLANNING><PLANNING>[3, 4]</PLANNING>", PLANNING, "2 times"),
        ("</PLANNING>[1, 2]<PLANNING>", PLANNING, "stands before"),
        ("Sure: <PLANNING>[1, 2]</PLANNING>", PLANNING, "prose is not allowed"),
        ("<PLANNING>[1, 2]</PLANNING> Bye", PLANNING, "prose is not allowed"),
        ("```\nKEEP", Cutting(), "1 marks"),
        ("```\nKEEP\n```\n```\nSTOP\n```", Cutting(prose=True), "4 marks"),
        ("Sure:\n```\nKEEP\n```", Cutting(), "prose is not allowed"),
        ("Answer: KEEP\nAnswer: STOP", Cutting(prose=True), "2 answers"),
        ("KEEP", LABELLED, "no answer is labelled"),
        ("It is red.\nAnswer: STOP", Cutting(), "prose is not allowed"),
        ("Answer:", Cutting(), "no answer"),
        ("no list", LISTED, "no brackets"),
        ("[(1, 2), (3, 4)", LISTED, "never closed"),
        ("[(1, 2], (3, 4))", LISTED, "do not match"),
        ("1, 2)]", LISTED, "do not match"),
        ("[1, 2] or [3, 4]", LISTED, "several lists"),
    ],
)
def test_what_is_not_exactly_one_answer(text, cutting, words):
    with pytest.raises(AnswerError, match=words):
        cut(text, cutting)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("'a', 'b'", "'a', 'b'"),  # two quoted words, not one
        ('"a" or "b"', '"a" or "b"'),
        ("'a", "'a"),
        ("**a** b", "**a** b"),
        ("\u22121.2 m/s\u00b2", "-1.2 m/s2"),
        ("''", "''"),
        ("'", "'"),
    ],
)
def test_only_what_encloses_all_is_taken_off(text, meant):
    assert plain(text) == meant


def test_a_description_has_the_reasoning_of_the_model_and_not_the_marks_of_its_plans():
    cutting = Cutting(reasoning_start="<r>", reasoning_end="</r>", begin="<PLANNING>", end="</PLANNING>", prose=True)
    said = Generation("<r>a red light</r>\n0 cars: none; 0 pedestrians; traffic light red 22 m", True, 0.9, 20, 0.1)
    scene = judge_scene(said, cutting.of_reasoning())
    assert scene.scene == Scene(light=Light.RED, light_distance=22.0)
    assert scene.generation.reasoning == "a red light"
    assert judge_scene(said).reason is Reason.UNPARSED


@given(st.text(max_size=80))
def test_any_text_is_cut_or_refused(text):
    for cutting in (Cutting(), PLANNING, TALKATIVE, LABELLED, LISTED):
        try:
            answer, _ = cut(text, cutting)
        except AnswerError:
            continue
        assert answer


@given(
    st.text("abc[](),. \n'*<>:", max_size=60), st.sampled_from(["", "<think>x</think>", "```", "Answer:", "<PLANNING>"])
)
def test_taking_off_ends_and_is_done_once(text, mark):
    assert plain(plain(mark + text)) == plain(mark + text)


@pytest.mark.parametrize(
    "values",
    [
        {"reasoning_end": ""},
        {"reasoning_start": "", "reasoning_end": "", "reasoning_opened": True},
        {"brackets": True},
        {"prose": "yes"},
        {"labels": [""]},
        {"labels": ["a", 1]},
        {"unknown": 1},
    ],
)
def test_options_that_make_no_sense(values):
    with pytest.raises(ValidationError):
        Cutting.model_validate(values)


def test_options_come_as_json():
    assert Cutting.model_validate({"labels": ["plan"], "prose": True}).labels == ("plan",)
