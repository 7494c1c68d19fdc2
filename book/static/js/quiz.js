// Show the reason of the chosen option, and read it out to screen readers. Without this script the reasons stay visible.
document.querySelectorAll(".bl-quiz").forEach((quiz) => {
  const live = quiz.querySelector(".bl-quiz-live");
  quiz.classList.add("bl-quiz-ready");
  quiz.addEventListener("change", () => {
    for (const option of quiz.querySelectorAll(".bl-quiz-option")) {
      const chosen = option.querySelector("input").checked;
      option.classList.toggle("bl-quiz-chosen", chosen);
      if (chosen) live.textContent = option.querySelector(".bl-quiz-reason").textContent;
    }
  });
});
