"""Templates: a stated set of fields, plain number formats, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.conversation import IMAGE
from owled_ros.driving.templates import FORMAT, FieldKind, escaped, fields_of, fill, fill_parts, read_template
from owled_ros.errors import OwledError

FIELDS = {
    "speed": FieldKind.NUMBER,
    "step": FieldKind.COUNT,
    "word": FieldKind.TEXT,
    "images": FieldKind.IMAGES,
}


def test_fields_are_filled_in():
    read_template("{images}At {speed:.1f} m/s, step {step:02d}: {word}, {{braces}}", FIELDS)
    parts = fill_parts(
        "{images}At {speed:.1f} m/s, step {step:02d}: {word}, {{braces}}",
        {"images": ("front ", IMAGE, IMAGE, ""), "speed": 8.25, "step": 3, "word": "{speed}"},
    )
    # half to even: 8.25 is exact in binary; what is filled in is not read again
    assert parts == ("front ", IMAGE, IMAGE, "At 8.2 m/s, step 03: {speed}, {braces}")
    assert fields_of("{word}{step}{word}") == ("word", "step", "word")


@pytest.mark.parametrize(
    "text",
    [
        "{speed.real}",
        "{speed.__class__.__mro__}",
        "{images[0]}",
        "{0}",
        "{}",
        "{unknown}",
        "{ speed}",
        "{speed!r}",
        "{speed:1000000000.1f}",
        "{speed:99.1f}",
        "{speed:.99f}",
        "{speed:{step}}",
        "{speed:{speed:{speed}}}",
        "{speed:*>10}",
        "{speed:,}",
        "{speed:n}",
        "{speed:d}",
        "{speed:s}",
        "{step:.2}",
        "{step:.2d}",
        "{word:>10}",
        "{images:1}",
        "{speed",
        "speed}",
        "{speed:.1f",
        "{speed:١f}",
        "x" * 20_001,
        "{step}" * 201,
    ],
)
def test_everything_else_is_refused(text):
    with pytest.raises(OwledError, match="template"):
        read_template(text, FIELDS)


@given(st.from_regex(FORMAT, fullmatch=True), st.floats(-1e6, 1e6), st.integers(-1000, 1000))
def test_what_is_accepted_can_be_written_and_stays_short(spec, number, count):
    for name, value in (("speed", number), ("step", count)):
        text = f"{{{name}:{spec}}}"
        try:
            read_template(text, FIELDS)
        except OwledError:
            continue
        assert 0 < len(fill(text, {name: value})) <= 41


@given(st.text(max_size=300))
def test_any_text_is_a_template_or_refused_in_words(text):
    try:
        read_template(text, FIELDS)
    except OwledError as error:
        assert len(str(error)) < 500  # noqa: PT017
    assert fill(escaped(text), {}) == text


def test_what_cannot_be_said_is_not_said():
    with pytest.raises(OwledError, match="speed, which is not known"):
        fill("{speed}", {})
    with pytest.raises(OwledError, match="finite"):
        fill("{speed}", {"speed": float("nan")})
    with pytest.raises(OwledError, match="200000 characters"):
        fill("{word}" * 200, {"word": "x" * 2000})
