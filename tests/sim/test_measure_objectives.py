"""What must hold of a run, read strictly and held against its figures."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from penstock_models.errors import UsageError
from penstock_sim.measure import figures
from penstock_sim.measure.objectives import Figures, Objective, Verdict

KNOWN = ("p99_ms", "lost", "answered_share", "precision")
VALUES: dict[str, Figures] = {
    "": {"p99_ms": 120.0, "lost": 0, "answered_share": 0.95, "precision": None},
    "door": {"p99_ms": 80.5, "lost": 2, "answered_share": 1.0},
}


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("p99_ms < 200", 120.0, True),
        ("p99_ms < 120", 120.0, False),
        ("p99_ms <= 120", 120.0, True),
        ("p99_ms == 120.0", 120.0, True),
        ("p99_ms >= 120.5", 120.0, False),
        ("p99_ms > -1", 120.0, True),
        ("  door.p99_ms<100 ", 80.5, True),
        ("door.lost == 0", 2, False),
        ("lost==0", 0, True),
        ("answered_share > 90%", 0.95, True),
        ("answered_share >= 95 %", 0.95, True),
        ("answered_share > 0.96", 0.95, False),
        ("precision > 0", None, False),
        ("door.precision > 0", None, False),
    ],
)
def test_an_objective_holds_or_not(text: str, value: float | None, met: bool) -> None:
    assert Objective.parse(text, ["door"], KNOWN).judge(VALUES) == Verdict(text.strip(), value, met)


def test_an_objective_of_a_mix_without_figures_does_not_hold() -> None:
    assert Objective.parse("door.lost >= 0", ["door"], KNOWN).judge({}) == Verdict(
        "door.lost >= 0", None, False
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "such as"),
        ("lost", "such as"),
        ("lost = 0", "such as"),
        ("lost != 0", "such as"),
        ("lost == zero", "such as"),
        ("lost == 0 and p99_ms < 3", "such as"),
        ("0 == lost", "such as"),
        ("lost == 1e3", "such as"),
        ("lost == 0%%", "such as"),
        ("door.cam.lost == 0", "such as"),
        ("lost == 0\nlost == 1", "such as"),
        ("yard.lost == 0", "a mix of door, till, came 'yard'"),
        ("p99 < 3", "did you mean p99_ms"),
        ("beauty > 3", "known are p99_ms, lost"),
    ],
)
def test_an_objective_that_cannot_be_read_says_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Objective.parse(text, ["door", "till"], KNOWN)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@given(
    text=st.text(max_size=20) | st.from_regex(r"[a-z.]{0,6}lost ?[<=>]{1,2} ?-?\d*\.?\d*%?", fullmatch=True)
)
def test_any_text_is_read_as_a_known_figure_or_refused_in_one_line(text: str) -> None:
    try:
        objective = Objective.parse(text, ["door"], KNOWN)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert objective.figure in KNOWN and objective.mix in ("", "door") and objective.text == text.strip()


@given(
    limit=st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
    value=st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
)
def test_exactly_one_of_below_equal_and_above_holds(limit: float, value: float) -> None:
    verdicts = {
        sign: Objective.parse(f"lost {sign} {limit:.3f}", [], KNOWN).judge({"": {"lost": value}}).met
        for sign in ("<", "<=", "==", ">=", ">")
    }
    assert verdicts["<"] + verdicts["=="] + verdicts[">"] == 1
    assert verdicts["<="] == (verdicts["<"] or verdicts["=="])
    assert verdicts[">="] == (verdicts[">"] or verdicts["=="])


@pytest.mark.parametrize("share", figures.SHARES)
def test_a_share_may_be_given_in_per_cent(share: str) -> None:
    objective = Objective.parse(f"{share} < 10%", [], figures.NAMES)
    figures.fits(objective)
    assert objective.limit == pytest.approx(0.1)
