"""Commands that predict: plan, simulate, landscape, scale, trace, import, export, report."""
