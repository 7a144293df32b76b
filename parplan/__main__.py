"""`python -m parplan`: the same as `parplan`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("parplan.experiments", run_name="__main__", alter_sys=True)
