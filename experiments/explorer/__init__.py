"""The page of `parplan explore`: candidates of a search as one page, served or as a file."""
