"""The quiz directive for Markdown pages: a question whose every option opens to say why it is right or wrong.

    ```{quiz} Why does the new head start at zero?
    - [ ] To save memory. :: A zero takes as much memory as any other number.
    - [x] So that the first gradients depend on the features alone. :: Right. ...
    ```
It produces the same HTML as in the notebooks (`bitlib.course.show`), which needs no script.
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from bitlib.course import show


class Quiz(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self):
        name = f"quiz-{self.env.docname.replace('/', '-')}-{self.env.new_serialno('quiz')}"
        try:
            ((asked, options),) = show.questions("\n".join([f"## {self.arguments[0]}", *self.content]))
        except ValueError as error:
            raise self.error(str(error)) from None
        return [nodes.raw("", show.question(asked, options, name), format="html")]


def setup(app):
    app.add_directive("quiz", Quiz)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
