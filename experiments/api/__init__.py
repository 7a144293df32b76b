"""The public interface of parplan: the functions behind `import parplan`.

Nothing here computes: each function checks what it is given and calls what the command calls.
"""
