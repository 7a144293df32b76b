"""One file per command of the command line, named as the command.

`predict` computes, `run` uses this machine, `study` checks and fits parplan itself.
"""
