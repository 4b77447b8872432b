"""The page about speed prints the very script that is measured."""

from tests.bench.publish import PAGE, script_block


def test_the_page_prints_the_script_that_is_measured() -> None:
    assert script_block() in PAGE.read_text(), "run `python -m tests.bench.publish`"
