"""The quiz directive: a question whose every option explains itself, with no kernel and by keyboard.

    ```{quiz} Why does the new head start at zero?
    - [ ] To save memory. :: A zero takes as much memory as any other number.
    - [x] So that the first gradients depend on the features alone. :: Right. ...
    ```
Each line is an option: [x] marks a right one, and the text after :: says why it is right or wrong. Question, options and
reasons may hold inline markup and formulas. In JupyterLab the source stays readable as it is.
"""

import re

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

OPTION = re.compile(r"^- \[([ x])\] (.+?) :: (.+)$")


class quiz(nodes.General, nodes.Element):
    pass


class quiz_question(nodes.General, nodes.TextElement):
    pass


class quiz_option(nodes.General, nodes.Element):
    pass


class quiz_label(nodes.General, nodes.TextElement):
    pass


class quiz_reason(nodes.General, nodes.TextElement):
    pass


class Quiz(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def text(self, cls, source):
        children, messages = self.state.inline_text(source, self.lineno)
        return cls(source, "", *children)

    def run(self):
        name = f"quiz-{self.env.docname.replace('/', '-')}-{self.env.new_serialno('quiz')}"
        root = quiz(name=name)
        root += self.text(quiz_question, self.arguments[0])
        rights = 0
        for line in filter(str.strip, self.content):
            match = OPTION.match(line.strip())
            if not match:
                raise self.error(f"quiz: {line!r} is not of the form '- [ ] option :: reason'")
            right = match[1] == "x"
            rights += right
            option = quiz_option(name=name, right=right)
            option += self.text(quiz_label, match[2])
            option += self.text(quiz_reason, match[3])
            root += option
        if not rights or len(root.children) < 3:
            raise self.error("quiz: give two options or more, at least one of them marked [x]")
        return [root]


def html(node, before, after):
    """A pair of visitor functions that write fixed text around a node's children; `before` sees the node."""
    return (lambda self, n: self.body.append(before(n))), (lambda self, n: self.body.append(after))


def option_start(node):
    verdict = "right" if node["right"] else "wrong"
    return f'<div class="bl-quiz-option" data-verdict="{verdict}"><label><input type="radio" name="{node["name"]}">'


def setup(app):
    visitors = {
        quiz: html(
            quiz, lambda n: '<fieldset class="bl-quiz">', '<div class="bl-quiz-live" aria-live="polite"></div></fieldset>'
        ),
        quiz_question: html(quiz_question, lambda n: "<legend>", "</legend>"),
        quiz_option: html(quiz_option, option_start, "</div>"),
        quiz_label: html(quiz_label, lambda n: "<span>", "</span></label>"),
        quiz_reason: html(quiz_reason, lambda n: '<div class="bl-quiz-reason">', "</div>"),
    }
    for node, pair in visitors.items():
        app.add_node(node, html=pair)
    app.add_directive("quiz", Quiz)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
