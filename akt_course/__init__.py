"""The course's own: how a figure is shown, and instant answers for the exercises."""
