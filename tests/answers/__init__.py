"""Answers that learners give to the exercises, a file for each chapter.

WRONG[exercise] = {what is wrong: (answer, words that its message must hold)}; RIGHT[exercise] = {how it works: answer}, each
by another road than the solution's.
"""
