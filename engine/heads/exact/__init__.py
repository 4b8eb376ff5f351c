"""Exact L2-regularised logistic regression: many strengths at once, with a certificate for each.

`design` holds or streams the rows, `objective` makes a pass over them, `preconditioner` knows the curvature, `lbfgs`
descends, `certificate` bounds what is missing, `path` goes from strength to strength.
"""
