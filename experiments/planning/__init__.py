"""What `parplan plan` does beyond the search: files, explanations, checks."""
