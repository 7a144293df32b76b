"""What `import parplan` offers: the functions that the commands are, with values instead of words.

Nothing here computes: each function checks what it is given and calls what the command calls.
"""
