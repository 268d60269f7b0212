"""The course's own: how a figure is shown, instant answers for the exercises, and grading."""
