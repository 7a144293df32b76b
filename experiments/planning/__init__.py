"""Files, explanations and checks of `parplan plan` beside the search."""
