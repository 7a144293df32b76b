"""Landscapes: any one or two fields of plan, workload or machine against any metric."""
