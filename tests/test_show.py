"""What cells show: HTML without scripts, safe whatever text it is given."""

import pytest
import torch

from bitlib.course import show

QUIZ = "## Is `a < b`?\n\n- [ ] Yes. :: No, *never*.\n- [x] No. :: Right: T² is larger.\n"


def test_inline_marks_up_a_little_and_escapes_the_rest():
    assert show.inline("*a* <b> `x < 1` **c** 2*3*4") == "<em>a</em> &lt;b&gt; <code>x &lt; 1</code> <strong>c</strong> 2*3*4"
    assert show.inline("[paper](https://arxiv.org/abs/1)") == '<a href="https://arxiv.org/abs/1">paper</a>'
    assert "javascript" not in show.inline('[x](javascript:alert"1")').replace("[x](javascript", "")


def test_a_table_sets_numbers_to_the_right_in_both_forms():
    shown = show.table(["method", "accuracy"], [["<fine>", "95.0 ± 1.0"], ["b", "3.1 ± 0.2"]])
    assert shown.text.splitlines() == ["method    accuracy", "<fine>  95.0 ± 1.0", "b        3.1 ± 0.2"]
    assert "&lt;fine&gt;" in shown.html() and shown.html().count("text-align:right") == 3


def test_a_quiz_opens_option_by_option_and_marks_none_beforehand():
    ((asked, options),) = show.questions(QUIZ)
    html = show.question(asked, options, "q")
    assert html.count("<details") == 2 and " open" not in html and 'name="q"' in html
    assert "<code>a &lt; b</code>" in html and "<em>never</em>" in html


@pytest.mark.parametrize(
    "text, message",
    [
        ("- [x] a :: b", "neither"),
        ("## Q\n- [x] a :: b", "two options or more"),
        ("## Q\n- [ ] a :: b\n- [ ] c :: d", "one of them marked"),
        ("## Q\n- [x] a\n- [ ] c :: d", "neither '## question' nor"),
    ],
)
def test_a_quiz_that_is_not_one_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        show.questions(text)


def test_images_carry_their_titles():
    shown = show.images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ["<a>", "b\nc"])
    assert shown.html().count("data:image/png;base64,") == 2
    assert 'alt="&lt;a&gt;"' in shown.html() and "b<br>c" in shown.html()


def test_without_a_notebook_text_is_printed(capsys):
    show.show(show.Html("<b>x</b>", "x"))
    assert capsys.readouterr().out == "x\n"
